// y[2r + a, 2q + b] = x[r, q] for a, b in {0, 1}: x [rows, width], the rows of all channels of all images one after the other, y [2 rows, 2 width].
// One invocation a granule of x, which becomes two granules in each of two rows. Grid: flat over ceil(granules / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // rows of x in the window
  width: u32, // granules of a row of x
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> y: array<Pack_x>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn upsample_nearest2x(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.rows * params.width) { return; }
  let v = unpack_x(x[index]);
  let low = pack_x(select(v, v.xxyy, W_x == 4u));
  let high = pack_x(select(v, v.zzww, W_x == 4u));
  let above = (index / params.width * 4u) * params.width + index % params.width * 2u;
  let below = above + params.width * 2u;
  y[above] = low;
  y[above + 1u] = high;
  y[below] = low;
  y[below + 1u] = high;
}
