// A row shared by the LANES = WORKGROUP invocations of one subgroup, whose size the variant states: butterflies, no workgroup memory.
// All of them take part: until the last of these calls a kernel decides nothing by the invocation.
enable subgroups;
fn row_of_T(group: u32, invocation: u32) -> u32 { return group; }
fn row_sum_T(v: vec2f, lane: u32) -> vec2f {
  var sum = v;
  for (var m = LANES / 2u; m > 0u; m /= 2u) { sum += subgroupShuffleXor(sum, m); }
  return sum;
}
fn row_max_T(v: f32, lane: u32) -> f32 {
  var most = v;
  for (var m = LANES / 2u; m > 0u; m /= 2u) { most = max(most, subgroupShuffleXor(most, m)); }
  return most;
}
