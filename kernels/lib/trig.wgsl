// sin and cos in f32 to about 1 ulp for |x| up to some thousands: WGSL's own may be off by 2^-11. Reduction to [-π/4, π/4] by π/2 in three
// parts (Cody and Waite), then the polynomials of the Cephes library. Each part is subtracted before the next: k · (their sum) has no such digits.
//#use opaque
fn sin_cos4(x: vec4f, quarter: vec4i) -> vec4f { // sin(x + quarter · π/2)
  let k = round(x * 0.6366197723675814);
  let r = opaque4(opaque4(x - k * 1.5703125) - k * 4.837512969970703e-4) - k * 7.549789954891882e-8;
  let z = r * r;
  let s = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4));
  let c = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5));
  let q = (vec4i(k) + quarter) & vec4i(3);
  let v = select(s, c, (q & vec4i(1)) == vec4i(1));
  return select(v, -v, q >= vec4i(2));
}
fn sin4(x: vec4f) -> vec4f { return sin_cos4(x, vec4i(0)); }
fn cos4(x: vec4f) -> vec4f { return sin_cos4(x, vec4i(1)); }
