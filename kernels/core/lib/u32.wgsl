// Storage and arithmetic u32.
//#use finite
alias Pack_T = vec4u;
alias V4_T = vec4u;
alias S_T = u32;
alias Word_T = u32;
const W_T = 4u;
const PER_T = 1u;
fn unpack_T(p: Pack_T) -> V4_T { return p; }
fn pack_T(v: V4_T) -> Pack_T { return v; }
fn pick_T(word: Word_T, i: u32) -> S_T { return word; }
fn is_nan_T(v: V4_T) -> vec4<bool> { return vec4<bool>(); }
fn max_T(a: V4_T, b: V4_T) -> V4_T { return max(a, b); }
fn min_T(a: V4_T, b: V4_T) -> V4_T { return min(a, b); }
// A float without its fraction; beyond the type's range the nearest of it, 0 for NaN.
fn truncate_T(v: vec4f) -> V4_T {
  let inside = vec4u(clamp(v, vec4f(), vec4f(4294967040.0)));
  return select(select(inside, vec4u(0xffffffffu), v >= vec4f(4294967296.0)), vec4u(), is_nan4(v));
}
