// Storage bf16, two to a word (even element low), arithmetic in f32. Stored by rounding to the nearest, ties to even.
//#use finite
alias Pack_T = vec2u;
alias V4_T = vec4f;
alias S_T = f32;
alias Word_T = u32;
const W_T = 4u;
const PER_T = 2u;
fn unpack_T(p: Pack_T) -> V4_T {
  return bitcast<vec4f>(vec4u(p.x << 16u, p.x & 0xffff0000u, p.y << 16u, p.y & 0xffff0000u));
}
fn pack_T(v: V4_T) -> Pack_T {
  let u = bitcast<vec4u>(v);
  let r = u + vec4u(0x7fffu) + ((u >> vec4u(16u)) & vec4u(1u));
  // NaN keeps its top bits with the quiet bit set: rounding could turn it into infinity or zero.
  let bits = select(r, u | vec4u(0x400000u), (u & vec4u(0x7fffffffu)) > vec4u(0x7f800000u));
  return vec2u((bits.x >> 16u) | (bits.y & 0xffff0000u), (bits.z >> 16u) | (bits.w & 0xffff0000u));
}
fn pick_T(word: Word_T, i: u32) -> S_T { return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (i & 1u) == 1u)); }
fn hsum_T(v: V4_T) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn hmax_T(v: V4_T) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn is_nan_T(v: V4_T) -> vec4<bool> { return is_nan4(v); }
fn max_T(a: V4_T, b: V4_T) -> V4_T { return max4(a, b); }
fn min_T(a: V4_T, b: V4_T) -> V4_T { return min4(a, b); }
