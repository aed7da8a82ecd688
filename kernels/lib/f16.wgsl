// Storage f16, two to a word (even element low), arithmetic in f32. Values beyond ±65504 are stored as ±65504: what WGSL makes of them is undefined.
alias Pack_T = vec2u;
alias V4_T = vec4f;
alias S_T = f32;
alias Word_T = u32;
const W_T = 4u;
const PER_T = 2u;
fn unpack_T(p: Pack_T) -> V4_T { return vec4f(unpack2x16float(p.x), unpack2x16float(p.y)); }
fn pack_T(v: V4_T) -> Pack_T {
  let c = clamp(v, vec4f(-65504.0), vec4f(65504.0));
  return vec2u(pack2x16float(c.xy), pack2x16float(c.zw));
}
fn pick_T(word: Word_T, i: u32) -> S_T {
  let v = unpack2x16float(word);
  return select(v.x, v.y, (i & 1u) == 1u);
}
fn hsum_T(v: V4_T) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn hmax_T(v: V4_T) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
