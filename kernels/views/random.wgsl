// y = random numbers, a function of the generator's state (seed, step, sample), the site and the element's index alone: uniform in
// [low, high), or normal with mean low and standard deviation high (NORMAL, by Box and Muller). One granule of 4 an invocation.
// A uniform number is scale · (low + u · (high − low)), held between the smallest and the largest value of y's dtype in the interval: rounding,
// here and in pack_y, would else reach the bound. Grid: flat over ceil(granules / WORKGROUP) workgroups, folded.
//#use grid
//#use philox
//#use trig
//#use f32 as y
const WORKGROUP = 64u; // invocations
const NORMAL = false;
struct Params {
  granules: u32, // in the window
  start: u32, // first granule of the window in the tensor
  site: u32, // which op of the program
  low: f32, // lower bound of a uniform number; low, high, least and most are divided by scale
  high: f32,
  least: f32, // values of y's dtype
  most: f32,
  scale: f32, // 1; 2 if high − low exceeds f32
}
@group(0) @binding(0) var<storage, read> state: array<vec4u>; // seed low, seed high, step, sample
@group(0) @binding(1) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn random(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.granules) { return; }
  let s = state[0];
  let u = unit_float(philox(vec4u(params.start + i, s.w, s.z, params.site), s.xy));
  var v = vec4f();
  if (!NORMAL) {
    v = clamp(params.low + u * (params.high - params.low), vec4f(params.least), vec4f(params.most)) * params.scale;
  } else {
    // 1 - u is in (0, 1]: the logarithm is finite.
    let radius = sqrt(-2.0 * log(1.0 - u.xz));
    let angle = 6.283185307179586 * u.yyww;
    v = params.low + params.high * radius.xxyy * sin_cos4(angle, vec4i(1, 0, 1, 0));
  }
  y[i] = pack_y(v);
}
