// 1 / √(mean square + eps) of up to four rows of A, summed as by the NORM_LANES invocations of library row_workgroup: here fewer may do their work.
//#use norm_squares
const NORM_LANES = 64u; // a power of two
var<workgroup> square_sums: array<vec4f, NORM_LANES>;
fn rstds_T(firsts: vec4u, invocation: u32) -> vec4f {
  for (var l = invocation; l < NORM_LANES; l += WORKGROUP) {
    var sums = vec4f();
    for (var r = 0u; r < min(4u, ROWS); r++) { sums[r] = square_sum(firsts[r], l, NORM_LANES); }
    square_sums[l] = sums;
  }
  for (var half = NORM_LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    for (var l = invocation; l < half; l += WORKGROUP) { square_sums[l] += square_sums[l + half]; }
  }
  workgroupBarrier();
  let total = square_sums[0];
  workgroupBarrier();
  return inverseSqrt(total * params.scale + params.eps);
}
