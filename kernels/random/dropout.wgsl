// y = x / (1 − p) where the element is kept, else x · 0: 0, NaN if x is not finite. Element 4i + k is kept when word k of Philox at counter (i, sample, step, site) and
// the seed as key, taken as a number in [0, 1), is not below p: the same mask for the same state, which the backward asks for again.
// One granule of 4 an invocation. Grid: flat over ceil(granules / WORKGROUP) workgroups, folded.
//#use finite
//#use grid
//#use philox
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
struct Params {
  granules: u32, // in the window
  start: u32, // first granule of the window in the tensor
  site: u32, // which op of the program
  p: f32,
  scale: f32, // 1 / (1 − p)
}
@group(0) @binding(0) var<storage, read> state: array<vec4u>; // seed low, seed high, step, sample
@group(0) @binding(1) var<storage, read> x: array<Pack_x>;
@group(0) @binding(2) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn dropout(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.granules) { return; }
  let s = state[0];
  let u = unit_float(philox(vec4u(params.start + i, s.w, s.z, params.site), s.xy));
  let v = unpack_x(x[i]);
  let dropped = select(vec4f(), nan_of4(v), is_not_finite4(v));
  y[i] = pack_y(select(dropped, v * params.scale, u >= vec4f(params.p)));
}
