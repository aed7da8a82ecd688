// average ← average + (1 − γ)(p − average), in place: the moving average of a parameter that a step does not change.
// Nothing changes if `state` (see adamw_prepare.wgsl) says "skip". An invocation updates GRANULES granules of 4. Grid:
// flat over ceil(granules / (WORKGROUP · GRANULES)) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
const GRANULES = 2u; // granules an invocation, a workgroup apart
struct Params {
  elements: u32, // in the window; elements after the last are not changed
  fresh: f32, // 1 − γ
}
@group(0) @binding(0) var<storage, read_write> average: array<vec4f>;
@group(0) @binding(1) var<storage, read> p: array<vec4f>;
@group(0) @binding(2) var<storage, read> state: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn ema(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  if (state[1].y != 0.0) { return; }
  let first = flat_group(group, groups) * (WORKGROUP * GRANULES) + lane;
  for (var k = 0u; k < GRANULES; k++) {
    let i = first + k * WORKGROUP;
    if (i * 4u < params.elements) {
      let inside = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.elements);
      average[i] = select(average[i], average[i] + params.fresh * (p[i] - average[i]), inside);
    }
  }
}
