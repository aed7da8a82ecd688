// dweight[ids[i], :] += Σ of g[j, :] over the positions j of a block with the id of i, in their order, by the first of them alone: no
// two invocations write one element. Ids outside the window of dweight do nothing. One granule an invocation.
// Grid: flat over ceil(rows · granules / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as g
//#use f32 as y
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // positions in the block
  granules: u32, // a row
  position: u32, // first position of the block
  first: u32, // row of dweight at which its window starts
  count: u32, // rows of dweight in the window
}
@group(0) @binding(0) var<storage, read> g: array<Pack_g>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> links: array<u32>; // next position of its id in the block; bit 31: the first of its id
@group(0) @binding(3) var<storage, read_write> dweight: array<Pack_y>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn embedding_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let row = index / params.granules;
  if (row >= params.rows) { return; }
  if (links[row] < 0x80000000u) { return; }
  let id = ids[params.position + row] - params.first; // wraps around below the window
  if (id >= params.count) { return; }
  let c = index - row * params.granules;
  let at = id * params.granules + c;
  var sum = unpack_y(dweight[at]);
  for (var j = row; j < params.rows; j = links[j] & 0x7fffffffu) {
    sum += unpack_g(g[j * params.granules + c]);
  }
  dweight[at] = pack_y(sum);
}
