// dx[o, i] = Σ of g[o, k] over the k with index[o, k] = i, in order. One element of dx an invocation, which walks its row of indices.
// Grid: flat over ceil(rows · n / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32,
  n: u32, // elements of a row of dx
  picks: u32, // elements of a row of g
}
@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn gather_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = flat_group(group, groups) * WORKGROUP + lane;
  let row = at / params.n;
  if (row >= params.rows) { return; }
  let i = at - row * params.n;
  var sum = 0.0;
  for (var k = row * params.picks; k < (row + 1u) * params.picks; k++) {
    if (index[k] == i) { sum += g[k]; }
  }
  dx[at] = sum;
}
