// 1 / √(mean square + eps) of up to four rows of A, shared by the invocations of a workgroup that is one subgroup, as library row_subgroup sums.
enable subgroups;
//#use norm_squares
fn rstds_T(firsts: vec4u, invocation: u32) -> vec4f {
  var sums = vec4f();
  for (var r = 0u; r < min(4u, ROWS); r++) { sums[r] = square_sum(firsts[r], invocation, WORKGROUP); }
  for (var m = WORKGROUP / 2u; m > 0u; m /= 2u) { sums += subgroupShuffleXor(sums, m); }
  return inverseSqrt(sums * params.scale + params.eps);
}
