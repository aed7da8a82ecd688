// The ceiling of memory, read and written: every granule of x is copied to y. Each invocation copies PER granules, a workgroup apart.
// Grid: [granules / (WORKGROUP · PER)].
const WORKGROUP = 64u; // invocations
const PER = 8u; // granules an invocation
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(WORKGROUP)
fn stream_copy(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * (WORKGROUP * PER) + lane;
  for (var i = 0u; i < PER; i++) {
    y[first + i * WORKGROUP] = x[first + i * WORKGROUP];
  }
}
