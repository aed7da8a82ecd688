// y[i] = start + i · step, in arithmetic of y's own type: integers are exact. One granule of 4 an invocation. Grid: flat over ceil(granules / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as y
const WORKGROUP = 64u; // invocations
struct Params {
  granules: u32, // in the window
  first: u32, // first element of the window
  start: u32, // bits of y's arithmetic type
  step: u32,
}
@group(0) @binding(0) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn arange(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.granules) { return; }
  let index = vec4u(params.first + i * 4u) + vec4u(0u, 1u, 2u, 3u);
  y[i] = pack_y(V4_y(vec4<S_y>(bitcast<S_y>(params.start))) + V4_y(index) * V4_y(vec4<S_y>(bitcast<S_y>(params.step))));
}
