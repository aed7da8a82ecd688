// y[n, :] = u + weight · (c − u) with c = x[2n, :], u = x[2n + 1, :]. One granule an invocation.
// Grid: flat over ceil(rows · granules / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // rows of y in the window
  granules: u32, // a row
  weight: f32,
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> y: array<Pack_x>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn guidance(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let row = index / params.granules;
  if (row >= params.rows) { return; }
  let c = unpack_x(x[index + row * params.granules]);
  let u = unpack_x(x[index + (row + 1u) * params.granules]);
  y[index] = pack_x(u + params.weight * (c - u));
}
