// Chains of equal ids: links[i] = (1 if no earlier position of the window has the id of i, next position with that id or `count`).
// One invocation a position walks the others until it meets its id. Grid: flat over ceil(count / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  count: u32, // positions in the window
  position: u32, // first position of the window
}
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> links: array<vec2u>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn embedding_links(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.count) { return; }
  let id = ids[params.position + i];
  var head = 1u;
  for (var j = 0u; j < i; j++) {
    if (ids[params.position + j] == id) {
      head = 0u;
      break;
    }
  }
  var next = i + 1u;
  while (next < params.count) {
    if (ids[params.position + next] == id) { break; }
    next++;
  }
  links[i] = vec2u(head, next);
}
