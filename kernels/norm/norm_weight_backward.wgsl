// First stage of the gradients of a norm's weight and bias: partial sums over blocks of rows, y [blocks, 1 or 2, columns] =
// (Σ g · (x − mean) · rstd, with BIAS also Σ g); the blocks are then added by the sum reduction. One invocation a granule of columns and
// a block. Grid: flat over ceil(blocks · granules / WORKGROUP) workgroups, folded.
//#use grid
//#use opaque
//#use f32 as x
//#use f32 as g
//#use f32 as y
const WORKGROUP = 64u; // invocations
const BLOCK = 32u; // rows
const BIAS = true;
struct Params {
  rows: u32, // in the window
  granules: u32, // a row
  blocks: u32,
  base: u32, // row of the bound statistics that the window starts at
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> g: array<Pack_g>;
@group(0) @binding(2) var<storage, read> statistics: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn norm_weight_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let index = flat_group(group, groups) * WORKGROUP + invocation;
  let column = index % params.granules;
  let block = index / params.granules;
  if (block >= params.blocks) { return; }
  var dweight = vec4f();
  var dbias = vec4f();
  let end = min(params.rows, (block + 1u) * BLOCK);
  for (var row = block * BLOCK; row < end; row++) {
    let known = statistics[params.base + row];
    let d = unpack_g(g[row * params.granules + column]);
    dweight += d * ((opaque4(unpack_x(x[row * params.granules + column]) - known.x) - known.y) * known.z);
    if (BIAS) { dbias += d; }
  }
  let at = block * select(1u, 2u, BIAS) * params.granules + column;
  y[at] = pack_y(dweight);
  if (BIAS) { y[at + params.granules] = pack_y(dbias); }
}
