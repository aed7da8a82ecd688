// dx[r, q] = g[2r, 2q] + g[2r, 2q + 1] + g[2r + 1, 2q] + g[2r + 1, 2q + 1]: rows as in upsample_nearest2x. One invocation a granule of dx.
// Grid: flat over ceil(granules / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // rows of dx in the window
  width: u32, // granules of a row of dx
}
@group(0) @binding(0) var<storage, read> g: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> dx: array<Pack_x>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn upsample_nearest2x_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.rows * params.width) { return; }
  let above = (index / params.width * 4u) * params.width + index % params.width * 2u;
  let below = above + params.width * 2u;
  let low = unpack_x(g[above]) + unpack_x(g[below]);
  let high = unpack_x(g[above + 1u]) + unpack_x(g[below + 1u]);
  dx[index] = pack_x(select(low + high, vec4f(low.xz + low.yw, high.xz + high.yw), W_x == 4u));
}
