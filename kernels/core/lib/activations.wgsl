// Activations of networks and their slopes (derivatives) for any x: NaN gives NaN, at infinity they have their limits.
//#use erf
//#use finite
//#use opaque
// x held within ±most; NaN stays.
fn within4(x: vec4f, most: f32) -> vec4f { return select(clamp(x, vec4f(-most), vec4f(most)), x, is_nan4(x)); }
// 1 / (1 + e^-x): the argument of exp stays below its overflow.
fn logistic4(x: vec4f) -> vec4f { return 1.0 / (1.0 + exp(min(-x, vec4f(88.0)))); }
fn silu4(x: vec4f) -> vec4f { return select(x / (1.0 + exp(min(-x, vec4f(88.0)))), vec4f(), x < vec4f(-104.0)); }
fn silu_slope4(v: vec4f) -> vec4f {
  let x = within4(v, 104.0);
  let p = logistic4(x);
  return p * (1.0 + x * (1.0 - p));
}
// x · Φ(x); the derivative of Φ is the normal density.
fn gelu4(x: vec4f) -> vec4f { return select(x * normal_cdf4(x), vec4f(), x < vec4f(-20.0)); }
fn gelu_slope4(v: vec4f) -> vec4f {
  let x = within4(v, 20.0);
  return normal_cdf4(x) + x * 0.3989422804014327 * exp(max(-0.5 * x * x, vec4f(-87.0)));
}
// What rounding took from the product p of a and b. Not by fma, which software devices may round twice: halves of 12 bits multiply exactly,
// and what is left of the largest product is taken before the small ones are added.
fn product_rest4(a: vec4f, b: vec4f, p: vec4f) -> vec4f {
  let ah = bitcast<vec4f>(bitcast<vec4u>(a) & vec4u(0xfffff000u));
  let bh = bitcast<vec4f>(bitcast<vec4u>(b) & vec4u(0xfffff000u));
  let al = opaque4(a - ah);
  let bl = opaque4(b - bh);
  return ((opaque4(ah * bh - p) + ah * bl) + al * bh) + al * bl;
}
// x / 2 · (1 + tanh(u)), u = √(2/π) (x + 0.044715 x³): (1 + tanh(u)) / 2 is the logistic function of 2u, which keeps its digits near 0.
// Far in the tail the argument of exp is about -10, and what its rounding loses the result loses ten times over: the rests of the
// products are kept beside them, and every rounded value that a rest refers to is opaque.
fn gelu_tanh4(x: vec4f) -> vec4f {
  let w = clamp(x, vec4f(-20.0), vec4f(20.0)); // beyond, e^z has long reached its bounds
  let square = opaque4(w * w);
  let cubic = opaque4(0.044715 * square);
  let t = opaque4(1.0 + cubic);
  let t_rest = opaque4(cubic - opaque4(t - 1.0)) + product_rest4(vec4f(0.044715), square, cubic) + 0.044715 * product_rest4(w, w, square);
  let u = opaque4(-1.5957691216057308 * w);
  let z = opaque4(u * t);
  // The two constants are kept in two parts as well.
  let z_rest = product_rest4(u, t, z) + u * (t_rest + 1.5461445e-9 * square) + (product_rest4(vec4f(-1.5957691216057308), w, u) + 4.5340680e-8 * w) * t;
  // e^z = 2^n · e^r with |r| < 0.35; GPUs' own exp loses |z| units of the last place.
  let bounded = clamp(z, vec4f(-87.0), vec4f(87.0));
  let n = round(bounded * 1.442695);
  let r = (opaque4(bounded - n * 0.69314575195) - n * 1.42860682e-6) + z_rest;
  let p = 1.0 + r * (1.0 + r * (0.5 + r * (0.16666667 + r * (0.041666667 + r * (0.0083333333 + r * 0.0013888889)))));
  return select(x / (1.0 + ldexp(p, vec4i(n))), vec4f(), x < vec4f(-20.0));
}
fn gelu_tanh_slope4(v: vec4f) -> vec4f {
  let x = within4(v, 20.0);
  let p = logistic4(1.5957691216057308 * x * (1.0 + 0.044715 * x * x));
  return p + p * (1.0 - p) * 1.5957691216057308 * x * (1.0 + 0.134145 * x * x);
}
