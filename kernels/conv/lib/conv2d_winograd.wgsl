// Winograd's F(4×4, 3×3): six products for four outputs of a line instead of twelve, 36 for 4 × 4 outputs instead of 144. A line's six values are
// those of polynomials at the points 0, A, -A, B, -B and infinity.
const A = 0.75; // these points give the least error of those tried, with constants that are exact
const B = 1.5;
const AA = A * A;
const BB = B * B;

// Six pixels of a line → their values at the points.
fn of_pixels(d: array<f32, 6>) -> array<f32, 6> {
  let even_a = fma(-BB, d[2], d[4]);
  let odd_a = A * fma(-BB, d[1], d[3]);
  let even_b = fma(-AA, d[2], d[4]);
  let odd_b = B * fma(-AA, d[1], d[3]);
  let zero = fma(-(AA + BB), d[2], fma(AA * BB, d[0], d[4]));
  let infinity = fma(-(AA + BB), d[3], fma(AA * BB, d[1], d[5]));
  return array(zero, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, infinity);
}

// Three weights of a line → their values at the points, divided by what the transforms of pixels and products leave out.
fn of_weights(w: array<f32, 3>) -> array<f32, 6> {
  const AT_ZERO = 1.0 / (AA * BB);
  const AT_A = 1.0 / (2.0 * AA * (AA - BB));
  const AT_B = 1.0 / (2.0 * BB * (BB - AA));
  let even_a = AT_A * fma(AA, w[2], w[0]);
  let odd_a = (AT_A * A) * w[1];
  let even_b = AT_B * fma(BB, w[2], w[0]);
  let odd_b = (AT_B * B) * w[1];
  return array(AT_ZERO * w[0], even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, w[2]);
}

// Sums of products at the six points → four outputs.
fn of_products(m: array<f32, 6>) -> vec4f {
  let even_a = m[1] + m[2];
  let odd_a = A * (m[1] - m[2]);
  let even_b = m[3] + m[4];
  let odd_b = B * (m[3] - m[4]);
  return vec4f(m[0] + even_a + even_b, odd_a + odd_b, fma(AA, even_a, BB * even_b), fma(AA, odd_a, fma(BB, odd_b, m[5])));
}
