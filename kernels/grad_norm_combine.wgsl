// y[i] = Σ of partial[i], partial[i + parts], …, each component (see grad_norm.wgsl); with FINISH (one part) the norm as bits in norm[0], NaN where
// an element, or the norm, is not finite. One invocation a part. Grid: flat over ceil(parts / WORKGROUP) workgroups, folded.
//#use grid
//#use opaque
const WORKGROUP = 64u; // invocations
const FINISH = false;
const UP = 1.9342813113834067e25; // 2^84
const DOWN = 5.169878828456423e-26; // 2^-84
struct Params {
  count: u32, // of partial
  parts: u32,
}
@group(0) @binding(0) var<storage, read> partial: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> norm: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

// The root of the three sums together, in the scale of the largest that is there: what vanishes in it is below its rounding. A factor of
// 2^-168 in two steps, which a compiler must not join: f32 does not hold it.
fn root(small: f32, medium: f32, large: f32) -> f32 {
  if (large > 0.0) { return sqrt(large + opaque(medium * DOWN) * DOWN) * UP; }
  if (medium > 0.0) { return sqrt(medium + opaque(small * DOWN) * DOWN); }
  return sqrt(small) * DOWN;
}

@compute @workgroup_size(WORKGROUP)
fn grad_norm_combine(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let part = flat_group(group, groups) * WORKGROUP + lane;
  if (part >= params.parts) { return; }
  var sum = vec4f();
  for (var i = part; i < params.count; i += params.parts) { sum += partial[i]; }
  if (!FINISH) {
    y[part] = sum;
    return;
  }
  let bits = bitcast<u32>(root(sum.x, sum.y, sum.z));
  norm[0] = select(bits, 0x7fc00000u, sum.w > 0.0 || (bits & 0x7f800000u) == 0x7f800000u);
}
