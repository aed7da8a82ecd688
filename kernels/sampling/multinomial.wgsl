// tokens[row, k] = first i with cumulative[row, i] > u[row, k] · total: bisection in the row's running sums of weights, whose last is the total. A
// weight of 0 is never taken. One invocation a draw. Grid: flat over ceil(rows · draws / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // in the window
  columns: u32,
  draws: u32, // a row
}
@group(0) @binding(0) var<storage, read> cumulative: array<f32>;
@group(0) @binding(1) var<storage, read> u: array<f32>; // from 0 to below 1
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn multinomial(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = flat_group(group, groups) * WORKGROUP + lane;
  let row = at / params.draws;
  if (row >= params.rows) { return; }
  let start = row * params.columns;
  let total = cumulative[start + params.columns - 1u];
  // The product may round up to the total, above which there is nothing: the number before it is the largest.
  let most = bitcast<f32>(max(bitcast<u32>(total), 1u) - 1u);
  let bound = min(u[at] * total, most);
  var low = 0u;
  var high = params.columns - 1u;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (cumulative[start + middle] > bound) { high = middle; } else { low = middle + 1u; }
  }
  tokens[at] = low;
}
