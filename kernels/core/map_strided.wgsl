// y[i] = apply(a[…], b[…], c[…]) for inputs of any strides (0 for a broadcast dimension); y contiguous, i its row-major index.
// Up to 8 dimensions, the last ones first in the parameter vectors; each invocation computes one granule of 4 elements of y, so that
// every word of y has one writer. Grid: flat over ceil(granules / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as a
//#use f32 as b
//#use f32 as c
//#use f32 as y
//#use copy as f
const WORKGROUP = 64u; // invocations
struct Params {
  elements: u32, // elements of y in the window
  start: u32, // row-major index of the window's first element
  offsets: vec4u, // element of a, b, c in their bindings at index 0; number of dimensions
  shape0: vec4u, // sizes of the last four dimensions, last first
  shape1: vec4u, // and of the four before
  a0: vec4u, // strides of a, likewise
  a1: vec4u,
  b0: vec4u,
  b1: vec4u,
  c0: vec4u,
  c1: vec4u,
  scalars: vec4f,
}
@group(0) @binding(0) var<storage, read> a: array<Word_a>;
@group(0) @binding(1) var<storage, read> b: array<Word_b>;
@group(0) @binding(2) var<storage, read> c: array<Word_c>;
@group(0) @binding(3) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(4) var<uniform> params: Params;

// Elements of a, b, c at row-major index `index`.
fn locate(index: u32) -> vec3u {
  var rest = index;
  var at = params.offsets.xyz;
  for (var d = 0u; d < params.offsets.w; d++) {
    let size = select(params.shape1[d & 3u], params.shape0[d & 3u], d < 4u);
    let i = rest % size;
    rest = rest / size;
    if (d < 4u) {
      at += i * vec3u(params.a0[d & 3u], params.b0[d & 3u], params.c0[d & 3u]);
    } else {
      at += i * vec3u(params.a1[d & 3u], params.b1[d & 3u], params.c1[d & 3u]);
    }
  }
  return at;
}

@compute @workgroup_size(WORKGROUP)
fn map_strided(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let granule = flat_group(group, groups) * WORKGROUP + lane;
  if (granule * 4u >= params.elements) { return; }
  // A position takes divisions: they are for the first element of the granule and the first of each row that begins in it; the others
  // follow by strides. The loop's bound is one that compilers do not know, or they would write all those divisions out four times.
  let first = params.start + granule * 4u;
  let count = params.elements - granule * 4u;
  let step = vec3u(params.a0.x, params.b0.x, params.c0.x);
  var at = vec3u();
  var left = 0u; // elements of the row
  var va = V4_a();
  var vb = V4_b();
  var vc = V4_c();
  for (var e = 0u; e < count - (max(count, 4u) - 4u); e++) {
    at += step;
    if (left == 0u) {
      at = locate(first + e);
      left = params.shape0.x - (first + e) % params.shape0.x;
    }
    left--;
    va[e % 4u] = pick_a(a[at.x / PER_a], at.x);
    vb[e % 4u] = pick_b(b[at.y / PER_b], at.y);
    vc[e % 4u] = pick_c(c[at.z / PER_c], at.z);
  }
  y[granule] = pack_y(V4_y(apply_f(va, vb, vc, params.scalars)));
}
