// y[z] = epilogue(a[z] [M, K] · b[z] [K, N]) for operands with any steps: the reference variant, and the one for small odd shapes.
// One invocation computes four columns of one row. Grid: (M, ceil(N / 4 / 64), batches).
//#use matmul_bindings
//#use matmul_io
//#use f32 as a
//#use f32 as b
const WORKGROUP = 64u; // invocations
@group(0) @binding(0) var<storage, read> a: array<Word_a>;
@group(0) @binding(1) var<storage, read> b: array<Word_b>;

fn at_a(i: u32) -> f32 { return pick_a(a[i / PER_a], i); }
fn at_b(i: u32) -> f32 { return pick_b(b[i / PER_b], i); }

@compute @workgroup_size(WORKGROUP)
fn matmul_naive(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = (group.y * WORKGROUP + lane) * 4u;
  if (column >= params.size.y) { return; }
  let batch = batch_of(group.z);
  let last = params.size.y - 1u;
  var from_a = params.a.x + along(batch, params.batches.x, params.batches.y) + group.x * params.a.y;
  let from_b = params.b.x + along(batch, params.batches.z, params.batches.w);
  var first = vec4u(from_b) + min(vec4u(column) + vec4u(0u, 1u, 2u, 3u), vec4u(last)) * params.b.z;
  var sum = vec4f();
  for (var k = 0u; k < params.size.z; k++) {
    sum += at_a(from_a) * vec4f(at_b(first.x), at_b(first.y), at_b(first.z), at_b(first.w));
    from_a += params.a.z;
    first += vec4u(params.b.y);
  }
  finish(batch, group.x, column, sum);
}
