// Sorts blocks of BLOCK elements of each row of x [rows, columns]: keys[row, block + rank] and indices hold each element's key and column, where the rank of an element is the
// number of elements of its block with a smaller key, or with its key and a smaller index. Keys come from the library of slot r, a u32 that
// orders the values with NaN on top; DESCENDING turns them around. One invocation an element, which walks its block.
// Grid: flat over ceil(rows · columns / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use rank_float as r
const WORKGROUP = 64u; // invocations
const BLOCK = 32u; // elements
const DESCENDING = false;
struct Params {
  rows: u32, // in the window
  columns: u32,
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read_write> keys: array<u32>;
@group(0) @binding(2) var<storage, read_write> indices: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

fn key(i: u32) -> u32 {
  let rank = rank_r(pick_x(x[i / PER_x], i), false);
  return select(rank, ~rank, DESCENDING);
}

@compute @workgroup_size(WORKGROUP)
fn sort_block(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  let row = i / params.columns;
  if (row >= params.rows) { return; }
  let start = row * params.columns;
  let column = i - start;
  let first = column - column % BLOCK;
  let end = min(first + BLOCK, params.columns);
  let own = key(i);
  var rank = 0u;
  for (var c = first; c < end; c++) {
    let other = key(start + c);
    rank += select(0u, 1u, other < own || (other == own && c < column));
  }
  keys[start + first + rank] = own;
  indices[start + first + rank] = column;
}
