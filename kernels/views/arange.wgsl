// y[i] = start + i · step, in integers (WHOLE: exact, modulo 2^32) or in f32. One granule of 4 an invocation. Grid: flat over ceil(granules / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as y
const WORKGROUP = 64u; // invocations
const WHOLE = true; // start and step are integers, for a float y all values in i32
const NARROW = false; // y is bf16, to which f32 is rounded
struct Params {
  granules: u32, // in the window
  first: u32, // first element of the window
  start: u32, // integer, or bits of f32
  step: u32,
}
@group(0) @binding(0) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(1) var<uniform> params: Params;

fn whole(index: vec4u) -> vec4i {
  let v = bitcast<vec4i>(vec4u(params.start) + index * params.step);
  if (!NARROW) { return v; }
  // Above 2^24 f32 would round, and bf16 again: the lowest 9 bits become one that says whether any was set, which f32 holds and bf16 rounds by.
  let cut = (v & vec4i(-512)) | select(vec4i(256), vec4i(), (v & vec4i(511)) == vec4i());
  return select(v, cut, (v >= vec4i(16777216)) | (v <= vec4i(-16777216)));
}

@compute @workgroup_size(WORKGROUP)
fn arange(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.granules) { return; }
  let index = vec4u(params.first + i * 4u) + vec4u(0u, 1u, 2u, 3u);
  if (WHOLE) {
    y[i] = pack_y(V4_y(whole(index)));
  } else {
    y[i] = pack_y(V4_y(bitcast<f32>(params.start) + vec4f(index) * bitcast<f32>(params.step)));
  }
}
