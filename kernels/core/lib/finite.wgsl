// NaN and infinity by their bits. WGSL lets a device assume that there are none: its max, min, clamp and comparisons may then drop them.
fn is_nan(v: f32) -> bool { return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u; }
fn is_nan4(v: vec4f) -> vec4<bool> { return (bitcast<vec4u>(v) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u); }
fn is_not_finite4(v: vec4f) -> vec4<bool> { return (bitcast<vec4u>(v) & vec4u(0x7f800000u)) == vec4u(0x7f800000u); }
// NaN or +infinity: what no softmax can weigh.
fn is_nan_or_top(v: f32) -> bool { let u = bitcast<u32>(v); return u > 0xff800000u || (u >= 0x7f800000u && u < 0x80000000u); }
fn is_nan_or_top4(v: vec4f) -> vec4<bool> {
  let u = bitcast<vec4u>(v);
  return (u > vec4u(0xff800000u)) | ((u >= vec4u(0x7f800000u)) & (u < vec4u(0x80000000u)));
}
// A NaN made from any value's bits (constants that are not finite do not compile), and an infinity of its sign.
fn nan_of4(v: vec4f) -> vec4f { return bitcast<vec4f>(bitcast<vec4u>(v) | vec4u(0x7fc00000u)); }
fn nan_of(v: f32) -> f32 { return bitcast<f32>(bitcast<u32>(v) | 0x7fc00000u); }
fn infinity_of4(v: vec4f) -> vec4f { return bitcast<vec4f>((bitcast<vec4u>(v) & vec4u(0x80000000u)) | vec4u(0x7f800000u)); }
// NaN if either is.
fn max4(a: vec4f, b: vec4f) -> vec4f { return select(select(max(a, b), b, is_nan4(b)), a, is_nan4(a)); }
fn min4(a: vec4f, b: vec4f) -> vec4f { return select(select(min(a, b), b, is_nan4(b)), a, is_nan4(a)); }
fn max1(a: f32, b: f32) -> f32 { return select(select(max(a, b), b, is_nan(b)), a, is_nan(a)); }
fn min1(a: f32, b: f32) -> f32 { return select(select(min(a, b), b, is_nan(b)), a, is_nan(a)); }
// e^(x − top) for x ≤ top, 0 in f32 below −104 (masks of −3e38 come here); NaN if x is NaN or +infinity.
fn power_below4(x: vec4f, top: f32) -> vec4f { return select(exp(max(x - top, vec4f(-104.0))), nan_of4(x), is_nan_or_top4(x)); }
