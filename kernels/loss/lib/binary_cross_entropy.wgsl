// Cross-entropy of two classes. Logarithms of probabilities count as −100 at least; NaN comes out if it goes in.
//#use finite
fn log_at_least4(p: vec4f) -> vec4f {
  let y = select(max(log(p), vec4f(-100.0)), vec4f(-100.0), p == vec4f());
  return select(y, nan_of4(p), (p < vec4f()) | is_nan4(p));
}
fn bce4(p: vec4f, t: vec4f) -> vec4f { return -(t * log_at_least4(p) + (1.0 - t) * log_at_least4(1.0 - p)); }
fn bce_slope4(p: vec4f, t: vec4f) -> vec4f {
  let y = (p - t) / max(p * (1.0 - p), vec4f(1e-12));
  return select(y, p, is_nan4(p));
}
fn bce_target_slope4(p: vec4f) -> vec4f { return log_at_least4(1.0 - p) - log_at_least4(p); }
// log(1 + e) for 0 ≤ e ≤ 1; a series where 1 + e would round e away.
fn log_one_plus4(e: vec4f) -> vec4f { return select(log(1.0 + e), e * (1.0 - e * (0.5 - e / 3.0)), e < vec4f(0.01)); }
// (1 − t) x + log(1 + e^−x), or for x < 0 −t x + log(1 + e^x), which is the same; NaN for −∞ and NaN.
fn bce_logits4(x: vec4f, t: vec4f) -> vec4f {
  let e = select(exp(-abs(x)), vec4f(), abs(x) > vec4f(104.0));
  let y = select(1.0 - t, -t, x < vec4f()) * x + log_one_plus4(e);
  return select(y, nan_of4(x), is_nan4(x) | (bitcast<vec4u>(x) == vec4u(0xff800000u)));
}
fn bce_logits_slope4(x: vec4f, t: vec4f) -> vec4f {
  let e = select(exp(-abs(x)), vec4f(), abs(x) > vec4f(104.0));
  let y = select(1.0 / (1.0 + e), e / (1.0 + e), x < vec4f());
  return select(y - t, x, is_nan4(x));
}
