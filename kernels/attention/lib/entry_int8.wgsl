// A granule as a cache of int8 stores it (see cached_int8.wgsl): v / scale, rounded. A scale is bf16 bits: 1/127 of the largest value of its group,
// rounded up so that no quotient is beyond 127; NaN if a value of the group is not finite. Sizes are compared as bits: WGSL's max may drop NaN.
const GROUP_T = 8u; // granules that share a scale
const SPAN_T = 16u; // granules whose scales share a word
const HAS_SCALES_T = true;
fn peak_T(v: vec4f) -> u32 {
  let u = bitcast<vec4u>(v) & vec4u(0x7fffffffu);
  return max(max(u.x, u.y), max(u.z, u.w));
}
fn scale_T(peak: u32) -> u32 {
  let scale = max(bitcast<f32>(peak) * (1.0 / 127.0), 1.17549435e-38); // a normal number: devices may take others as 0
  return select((bitcast<u32>(scale) + 0xffffu) >> 16u, 0x7fc0u, peak >= 0x7f800000u);
}
fn pair_T(low: u32, high: u32) -> Pack_c { return low | (high << 16u); }
fn pack_T(v: vec4f, scale: u32) -> Pack_c {
  let q = bitcast<vec4u>(vec4i(round(v / bitcast<f32>(scale << 16u)))) & vec4u(255u);
  return q.x | (q.y << 8u) | (q.z << 16u) | (q.w << 24u);
}
