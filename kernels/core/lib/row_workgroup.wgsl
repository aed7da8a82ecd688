// A row shared by the LANES = WORKGROUP invocations of a workgroup (a power of two): trees in workgroup memory. Called in uniform control flow.
fn row_of_T(group: u32, invocation: u32) -> u32 { return group; }
var<workgroup> parts_T: array<vec2f, WORKGROUP>;
fn row_sum_T(v: vec2f, lane: u32) -> vec2f {
  parts_T[lane] = v;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { parts_T[lane] += parts_T[lane + half]; }
  }
  workgroupBarrier();
  let sum = parts_T[0];
  workgroupBarrier();
  return sum;
}
fn row_max_T(v: f32, lane: u32) -> f32 {
  parts_T[lane].x = v;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { parts_T[lane].x = max(parts_T[lane].x, parts_T[lane + half].x); }
  }
  workgroupBarrier();
  let most = parts_T[0].x;
  workgroupBarrier();
  return most;
}
