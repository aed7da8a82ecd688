// y[o, k] = x[o, index[o, k]], elements as 32-bit words; 0 if the index is outside 0 … n − 1. One element an invocation.
// Grid: flat over ceil(rows · picks / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32,
  n: u32, // elements of a row of x
  picks: u32, // elements of a row of y
}
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn gather(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = flat_group(group, groups) * WORKGROUP + lane;
  let row = at / params.picks;
  if (row >= params.rows) { return; }
  let i = index[at];
  var word = 0u;
  if (i < params.n) { word = x[row * params.n + i]; }
  y[at] = word;
}
