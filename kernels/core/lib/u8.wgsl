// Storage u8, four to a word (first element lowest), arithmetic in u32. Larger values are stored as 255.
//#use finite
alias Pack_T = u32;
alias V4_T = vec4u;
alias S_T = u32;
alias Word_T = u32;
const W_T = 4u;
const PER_T = 4u;
fn unpack_T(p: Pack_T) -> V4_T { return (vec4u(p) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u); }
fn pack_T(v: V4_T) -> Pack_T {
  let m = min(v, vec4u(255u)) << vec4u(0u, 8u, 16u, 24u);
  return (m.x | m.y) | (m.z | m.w);
}
fn pick_T(word: Word_T, i: u32) -> S_T { return (word >> ((i & 3u) * 8u)) & 255u; }
fn is_nan_T(v: V4_T) -> vec4<bool> { return vec4<bool>(); }
fn max_T(a: V4_T, b: V4_T) -> V4_T { return max(a, b); }
fn min_T(a: V4_T, b: V4_T) -> V4_T { return min(a, b); }
// A float without its fraction; beyond the type's range the nearest of it, 0 for NaN.
fn truncate_T(v: vec4f) -> V4_T {
  return select(vec4u(clamp(v, vec4f(), vec4f(255.0))), vec4u(), is_nan4(v));
}
