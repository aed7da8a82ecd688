// Activations of networks and their slopes (derivatives), safe for any finite x up to about 1e4 and beyond.
//#use erf
// 1 / (1 + e^-x): the argument of exp stays below its overflow.
fn logistic4(x: vec4f) -> vec4f { return 1.0 / (1.0 + exp(min(-x, vec4f(88.0)))); }
fn silu4(x: vec4f) -> vec4f { return x / (1.0 + exp(min(-x, vec4f(88.0)))); }
fn silu_slope4(x: vec4f) -> vec4f {
  let p = logistic4(x);
  return p * (1.0 + x * (1.0 - p));
}
// x · Φ(x); the derivative of Φ is the normal density.
fn gelu4(x: vec4f) -> vec4f { return x * normal_cdf4(x); }
fn gelu_slope4(x: vec4f) -> vec4f { return normal_cdf4(x) + x * 0.3989422804014327 * exp(max(-0.5 * x * x, vec4f(-87.0))); }
// x / 2 · (1 + tanh(u)), u = √(2/π) (x + 0.044715 x³): (1 + tanh(u)) / 2 is the logistic function of 2u, which keeps its digits near 0.
fn gelu_tanh4(x: vec4f) -> vec4f { return x * logistic4(1.5957691216057308 * x * (1.0 + 0.044715 * x * x)); }
fn gelu_tanh_slope4(x: vec4f) -> vec4f {
  let p = logistic4(1.5957691216057308 * x * (1.0 + 0.044715 * x * x));
  return p + p * (1.0 - p) * 1.5957691216057308 * x * (1.0 + 0.134145 * x * x);
}
