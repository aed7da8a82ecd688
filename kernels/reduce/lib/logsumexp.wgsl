// The parts of log Σ e^x: powers of differences that overflow nowhere and carry NaN and infinities.
//#use finite
fn lse_finite4(v: vec4f) -> vec4f { return select(v, vec4f(), (bitcast<vec4u>(v) & vec4u(0x7fffffffu)) == vec4u(0x7f800000u)); }
// e^(x − top) for x ≤ top; an infinite top is left out: ∞ stays ∞, and −∞ gives 0.
fn lse_power4(x: vec4f, top: vec4f) -> vec4f {
  let v = x - lse_finite4(top);
  return select(select(exp(min(v, vec4f(88.0))), vec4f(), v < vec4f(-104.0)), x, is_nan_or_top4(x));
}
fn lse_log4(sum: vec4f, top: vec4f) -> vec4f {
  let y = select(log(sum) + lse_finite4(top), sum, is_nan_or_top4(sum));
  return select(y, -infinity_of4(abs(sum)), sum == vec4f());
}
// e^(x − y) of the result y; NaN where both are the same infinity.
fn lse_slope4(x: vec4f, y: vec4f) -> vec4f {
  let d = x - y;
  return select(select(exp(min(d, vec4f(88.0))), vec4f(), d < vec4f(-104.0)), d, is_nan4(d));
}
