// y[i, :] = weight[ids[i], :] for the rows in a window of the weight; rows of other windows are not changed, but the
// window from row 0 writes zeros for every id that it does not hold. ids count from position `position`; a negative id
// is a large one. An invocation copies GRANULES granules of one row, `steps` apart. Grid: flat over ceil(rows · steps /
// WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as w
//#use f32 as y
const WORKGROUP = 64u; // invocations
const GRANULES = 4u; // granules an invocation
struct Params {
  rows: u32, // rows of y in the window
  granules: u32, // a row
  steps: u32, // invocations a row
  position: u32, // row of y at which the window starts
  first: u32, // row of the weight at which its window starts
  count: u32, // rows of the weight in the window
}
@group(0) @binding(0) var<storage, read> weight: array<Pack_w>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn embedding(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let row = index / params.steps;
  if (row >= params.rows) { return; }
  let id = ids[params.position + row] - params.first; // wraps around below the window
  let inside = id < params.count;
  if (!inside && params.first != 0u) { return; }
  for (var g = 0u; g < GRANULES; g++) {
    let c = index % params.steps + g * params.steps;
    if (c < params.granules) {
      var v = V4_y();
      if (inside) { v = V4_y(unpack_w(weight[id * params.granules + c])); }
      y[row * params.granules + c] = pack_y(v);
    }
  }
}
