// Storage f16, two to a word (even element low), arithmetic in f32. Values that round to more than 65504 are stored as infinity and NaN as NaN,
// by their bits: what WGSL makes of them is undefined, and training must see that a gradient has overflowed.
//#use finite
alias Pack_T = vec2u;
alias V4_T = vec4f;
alias S_T = f32;
alias Word_T = u32;
const W_T = 4u;
const PER_T = 2u;
fn unpack_T(p: Pack_T) -> V4_T { return vec4f(unpack2x16float(p.x), unpack2x16float(p.y)); }
fn pack_T(v: V4_T) -> Pack_T {
  let u = bitcast<vec4u>(v);
  let size = u & vec4u(0x7fffffffu);
  let beyond = size >= vec4u(0x477ff000u); // 65520, the first that rounds up
  let c = select(v, vec4f(), beyond);
  let p = vec2u(pack2x16float(c.xy), pack2x16float(c.zw));
  if (!any(beyond)) { return p; }
  let not_finite = ((u >> vec4u(16u)) & vec4u(0x8000u)) | select(vec4u(0x7c00u), vec4u(0x7e00u), size > vec4u(0x7f800000u));
  let bits = select(vec4u(p.x & 0xffffu, p.x >> 16u, p.y & 0xffffu, p.y >> 16u), not_finite, beyond);
  return vec2u(bits.x | (bits.y << 16u), bits.z | (bits.w << 16u));
}
fn pick_T(word: Word_T, i: u32) -> S_T {
  let v = unpack2x16float(word);
  return select(v.x, v.y, (i & 1u) == 1u);
}
fn hsum_T(v: V4_T) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn hmax_T(v: V4_T) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn is_nan_T(v: V4_T) -> vec4<bool> { return is_nan4(v); }
fn max_T(a: V4_T, b: V4_T) -> V4_T { return max4(a, b); }
fn min_T(a: V4_T, b: V4_T) -> V4_T { return min4(a, b); }
