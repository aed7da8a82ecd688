// From a row's state (m, Σ e^(x − m), x[target]): statistics[r] = (log Σ e^x, 1 if its target counts), losses[r] = log Σ e^x − x[target],
// 0 if the target is `ignore` or no class. One invocation a row. Grid: flat over ceil(rows / WORKGROUP), folded.
//#use grid
//#use opaque
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32,
  classes: u32,
  ignore: i32,
}
@group(0) @binding(0) var<storage, read> state: array<vec4f>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> counted: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn cross_entropy_finish(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups) * WORKGROUP + lane;
  if (row >= params.rows) { return; }
  let s = state[row];
  let label = targets[row];
  let counts = label != params.ignore && u32(label) < params.classes;
  let l = s.x + log(s.y);
  // Not l − s.z: if the target is likely, the loss is far smaller than l, and would keep l's rounding.
  losses[row] = select(0.0, opaque(s.x - s.z) + log(s.y), counts);
  lse[row] = l;
  counted[row] = select(0.0, 1.0, counts);
}
