// Probabilities of attention from scores s (in powers of 2), which are −3e38 if masked. A score that is NaN or +infinity gives NaN, and with it
// the sum and the row; running maxima may drop it. Needs the library attention_keys.
//#use finite
// 2^(s − top) for s ≤ top; 0 if masked.
fn power(s: f32, top: f32) -> f32 {
  return select(select(0.0, exp2(max(s - top, -126.0)), s > -1e38), nan_of(s), is_nan_or_top(s));
}
fn powers(s: vec4f, top: f32) -> vec4f {
  return select(select(vec4f(), exp2(max(s - top, vec4f(-126.0))), s > vec4f(-1e38)), nan_of4(s), is_nan_or_top4(s));
}
// 2^(s − lse) from the saved log-sum of the row, NaN if that is.
fn power_of(s: f32, lse: f32) -> f32 { return select(exp2(clamp(s - lse, -126.0, 126.0)), lse, is_nan(lse)); }
fn powers_of(s: vec4f, lse: vec4f) -> vec4f { return select(exp2(clamp(s - lse, vec4f(-126.0), vec4f(126.0))), lse, is_nan4(lse)); }
// Whether query i of a row whose first key is `begin` sees a key at all; with documents its own.
fn sees_any(begin: u32, i: u32) -> bool {
  if (masked_by(DOCUMENTS)) { return begin <= i; }
  return begin < end_key(i);
}
// What a row without a sum of powers has: zeros if it sees no key, NaN if all its scores are −infinity.
fn without_sum(total: f32, begin: u32, i: u32) -> f32 { return select(0.0, nan_of(total), sees_any(begin, i)); }
// What multiplies the row's sum of values, and the log2 of its sum of powers.
fn share_of(total: f32, begin: u32, i: u32) -> f32 { return select(1.0 / total, without_sum(total, begin, i), total == 0.0); }
fn log_sum(top: f32, total: f32, begin: u32, i: u32) -> f32 { return select(top + log2(total), without_sum(total, begin, i), total == 0.0); }
fn hmax4(v: vec4f) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
