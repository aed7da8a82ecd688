// y[row, i] = x[row, i] + bias[row % channels]: x, y [images · channels, pixels]. A workgroup covers WORKGROUP · GRANULES granules of one row.
// Grid: flat over rows × blocks, folded.
//#use grid
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
const GRANULES = 4u; // granules an invocation, a workgroup apart
struct Params {
  rows: u32, // in the window
  first: u32, // the window's first
  channels: u32,
  granules: u32, // granules of a row
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn conv2d_bias(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let blocks = (params.granules + WORKGROUP * GRANULES - 1u) / (WORKGROUP * GRANULES);
  let index = flat_group(group, groups);
  let row = index / blocks;
  if (row >= params.rows) { return; }
  let shift = bias[(params.first + row) % params.channels];
  for (var k = 0u; k < GRANULES; k++) {
    let i = (index % blocks * GRANULES + k) * WORKGROUP + lane;
    if (i < params.granules) { y[row * params.granules + i] = pack_y(unpack_x(x[row * params.granules + i]) + shift); }
  }
}
