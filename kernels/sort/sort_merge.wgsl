// Merges neighbouring sorted runs of `length` elements of each row of keys [rows, columns] and their indices. The position of an element is its
// own within its run plus the number of elements of the other run that come before it, found by bisection: of equal keys those of the
// left run come first, which keeps the order stable. One invocation an element.
// Grid: flat over ceil(rows · columns / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // in the window
  columns: u32,
  length: u32, // elements of a run; the last of a row may be shorter
}
@group(0) @binding(0) var<storage, read> keys: array<u32>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> merged_keys: array<u32>;
@group(0) @binding(3) var<storage, read_write> merged_indices: array<u32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn sort_merge(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  let row = i / params.columns;
  if (row >= params.rows) { return; }
  let start = row * params.columns;
  let column = i - start;
  let own = keys[i];
  let run = column / params.length;
  let is_left = run % 2u == 0u;
  let first = (run - run % 2u) * params.length; // column at which the two runs begin
  let other = min(select(first, first + params.length, is_left), params.columns);
  var low = other;
  var high = min(other + params.length, params.columns);
  while (low < high) {
    let middle = (low + high) / 2u;
    let key = keys[start + middle];
    if (key < own || (key == own && !is_left)) { low = middle + 1u; } else { high = middle; }
  }
  let at = start + first + (column - run * params.length) + (low - other);
  merged_keys[at] = own;
  merged_indices[at] = indices[i];
}
