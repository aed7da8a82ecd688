// Counts a step for parameters first … first + count − 1: their rows of `steps` become (t, 1 − β1^t, 1 − β2^t), t one more than before. Nothing
// changes if `state` (see adamw_prepare.wgsl) says "skip". One invocation a parameter. Grid: flat over ceil(count / WORKGROUP) workgroups, folded.
//#use grid
//#use complement
const WORKGROUP = 64u; // invocations
struct Params {
  first: u32,
  count: u32,
  log_beta1: f32,
  log_beta2: f32,
}
@group(0) @binding(0) var<storage, read> state: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> steps: array<f32>; // [parameters, 3]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn adamw_count(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.count || state[1].y != 0.0) { return; }
  let row = 3u * (params.first + i);
  let t = steps[row] + 1.0;
  steps[row] = t;
  steps[row + 1u] = complement(t * params.log_beta1);
  steps[row + 2u] = complement(t * params.log_beta2);
}
