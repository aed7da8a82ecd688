// sin and cos in f32 to about 1 ulp: WGSL's own may be off by 2^-11. Reduction to [-π/4, π/4] by π/2 in three parts (Cody and Waite) up to 1e4,
// beyond in integers (Payne and Hanek), then the polynomials of the Cephes library. Each part is subtracted before the next: k · (their sum) has
// no such digits.
//#use finite
//#use opaque
//#use philox
fn sin_cos4(x: vec4f, quarter: vec4i) -> vec4f { // sin(x + quarter · π/2) for |x| up to 1e4
  let k = round(x * 0.6366197723675814);
  let r = opaque4(opaque4(x - k * 1.5703125) - k * 4.837512969970703e-4) - k * 7.549789954891882e-8;
  return sin_turned4(r, vec4i(k) + quarter);
}
fn sin_turned4(r: vec4f, quarter: vec4i) -> vec4f { // sin(r + quarter · π/2) for |r| up to π/4
  let z = r * r;
  let s = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4));
  let c = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5));
  let q = quarter & vec4i(3);
  let v = select(s, c, (q & vec4i(1)) == vec4i(1));
  return select(v, -v, q >= vec4i(2));
}
// The bits of 2/π after one word of zeros.
const TWO_OVER_PI = array<u32, 8>(0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu);
struct Turn {
  r: f32, // x − quarters · π/2
  quarters: i32, // modulo 4
}
// |x| = m · 2^e with m of 24 bits; of 2/π only the 96 bits count whose product with 2^e is below 4, so the product with m is taken modulo 2^96:
// its upper two bits are the quarters, the rest their fraction. No f32 lies nearer to a multiple of π/2 than about 2^-30: 62 bits of it suffice.
fn turn_far(x: f32) -> Turn {
  let bits = bitcast<u32>(x);
  let m = (bits & 0x7fffffu) | 0x800000u;
  let first = max((bits >> 23u) & 0xffu, 120u) - 120u; // e + 30: the table index of the bit that gives 2
  let word = first / 32u;
  let shift = first % 32u;
  var table = TWO_OVER_PI;
  var part = array<u32, 3>();
  for (var i = 0u; i < 3u; i++) {
    // In two steps: a shift by 32 is none.
    part[i] = (table[word + i] << shift) | ((table[word + i + 1u] >> 1u) >> (31u - shift));
  }
  let low = mul_wide(part[2], m);
  let mid = mul_wide(part[1], m);
  let next = mid.y + low.x;
  let top = part[0] * m + mid.x + select(0u, 1u, next < low.x);
  let quarters = (top + 0x20000000u) >> 30u; // to the nearest
  let rest = top - (quarters << 30u);
  let isNegative = rest >= 0x80000000u;
  let flip = select(0u, 0xffffffffu, isNegative);
  let size = (f32(rest ^ flip) * 9.313225746154785e-10 + f32(next ^ flip) * 2.168404344971009e-19) * 1.5707963267948966;
  // sin is odd: of a negative x both are negative.
  let isBelow = bits >= 0x80000000u;
  return Turn(select(size, -size, isNegative != isBelow), select(i32(quarters), -i32(quarters), isBelow));
}
fn sin_cos_far4(x: vec4f, quarter: vec4i) -> vec4f { // sin(x + quarter · π/2) for every x; NaN if it is not finite
  let isFar = (bitcast<vec4u>(x) & vec4u(0x7fffffffu)) > vec4u(0x461c4000u); // 1e4
  let near = sin_cos4(select(x, vec4f(), isFar), quarter);
  if (!any(isFar)) { return near; }
  let a = turn_far(x.x);
  let b = turn_far(x.y);
  let c = turn_far(x.z);
  let d = turn_far(x.w);
  let far = sin_turned4(vec4f(a.r, b.r, c.r, d.r), vec4i(a.quarters, b.quarters, c.quarters, d.quarters) + quarter);
  return select(near, select(far, nan_of4(x), is_not_finite4(x)), isFar);
}
fn sin4(x: vec4f) -> vec4f { return sin_cos_far4(x, vec4i(0)); }
fn cos4(x: vec4f) -> vec4f { return sin_cos_far4(x, vec4i(1)); }
