// 1 − e^x for x ≤ 0, exact for small x. With x = t · log β it is 1 − β^t, the same after a resume as without one.
fn complement(x: f32) -> f32 {
  let series = -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0))))));
  return select(1.0 - exp(max(x, -104.0)), series, x > -0.4);
}
