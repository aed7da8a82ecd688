// The ceiling of memory: every granule of x is read once, the sums are written. Each invocation reads PER granules, a workgroup apart.
// Grid: [granules / (WORKGROUP · PER)].
const WORKGROUP = 64u; // invocations
const PER = 8u; // granules an invocation
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(WORKGROUP)
fn stream_read(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * (WORKGROUP * PER) + lane;
  let a = (x[first] + x[first + WORKGROUP]) + (x[first + 2u * WORKGROUP] + x[first + 3u * WORKGROUP]);
  let b = (x[first + 4u * WORKGROUP] + x[first + 5u * WORKGROUP]) + (x[first + 6u * WORKGROUP] + x[first + 7u * WORKGROUP]);
  y[group.x * WORKGROUP + lane] = a + b;
}
