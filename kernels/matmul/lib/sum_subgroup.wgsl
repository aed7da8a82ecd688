// Sums over the LANES invocations of a subgroup (at least 4) by butterflies. Invocation i gets the sum of row i, those beyond ROWS nothing of use.
enable subgroups;
fn lanes_sum_T(v: vec4f) -> vec4f {
  var total = v;
  for (var far = 1u; far < LANES; far *= 2u) { total += subgroupShuffleXor(total, far); }
  return total;
}
fn sum_T(rows: array<vec4f, 8>, lane: u32) -> vec4f {
  var total = lanes_sum_T(rows[0]);
  if (ROWS > 1u) {
    let sum1 = lanes_sum_T(rows[1]);
    total = select(total, sum1, lane == 1u);
  }
  if (ROWS > 2u) {
    let sum2 = lanes_sum_T(rows[2]);
    total = select(total, sum2, lane == 2u);
    let sum3 = lanes_sum_T(rows[3]);
    total = select(total, sum3, lane == 3u);
  }
  if (ROWS > 4u) {
    let sum4 = lanes_sum_T(rows[4]);
    total = select(total, sum4, lane == 4u);
    let sum5 = lanes_sum_T(rows[5]);
    total = select(total, sum5, lane == 5u);
    let sum6 = lanes_sum_T(rows[6]);
    total = select(total, sum6, lane == 6u);
    let sum7 = lanes_sum_T(rows[7]);
    total = select(total, sum7, lane == 7u);
  }
  return total;
}
