// Chains of equal ids within blocks of BLOCK positions: links[i] = next position of the block with the id of i, counted from its start, or
// BLOCK; with bit 31 set if no earlier position of the block has that id. One invocation a position walks the others of its block
// until it meets its id: at most BLOCK loads, however many positions there are. Grid: flat over ceil(count / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
const BLOCK = 512u; // positions
struct Params {
  count: u32, // positions in the window
  position: u32, // first position of the window
}
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> links: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn embedding_links(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.count) { return; }
  let id = ids[params.position + i];
  let first = i - i % BLOCK;
  let end = min(first + BLOCK, params.count);
  var head = 0x80000000u;
  for (var j = first; j < i; j++) {
    if (ids[params.position + j] == id) {
      head = 0u;
      break;
    }
  }
  var next = i + 1u;
  while (next < end) {
    if (ids[params.position + next] == id) { break; }
    next++;
  }
  links[i] = head | select(BLOCK, next - first, next < end);
}
