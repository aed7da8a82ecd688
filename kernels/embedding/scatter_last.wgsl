// last[o, i] = 1 + the largest k with index[o, k] = i; it is not changed (0) if there is none. The largest is the same
// in whatever order the invocations come. One element of index an invocation. Grid: flat over ceil(rows · picks /
// WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32,
  n: u32, // elements of a row of last
  picks: u32, // elements of a row of index
}
@group(0) @binding(0) var<storage, read> index: array<u32>;
@group(0) @binding(1) var<storage, read_write> last: array<atomic<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn scatter_last(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = flat_group(group, groups) * WORKGROUP + lane;
  let row = at / params.picks;
  if (row >= params.rows) { return; }
  let i = index[at];
  if (i < params.n) { atomicMax(&last[row * params.n + i], at - row * params.picks + 1u); }
}
