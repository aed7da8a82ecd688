// y[row] = index of the largest value of x[row, :] (with LOWEST the smallest), the lowest index among equals; a NaN is above (below) all else.
// Values are compared by the rank that the library of slot r gives them, a u32. One workgroup a row: each invocation walks every WORKGROUP-th
// column, then a tree in workgroup memory. Grid: flat over rows, folded.
//#use grid
//#use f32 as x
//#use rank_float as r
const WORKGROUP = 64u; // invocations, a power of two
const LOWEST = false;
struct Params {
  rows: u32,
  columns: u32,
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;
var<workgroup> ranks: array<u32, WORKGROUP>;
var<workgroup> places: array<u32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn arg_reduce(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups);
  var best = 0u;
  var place = 0xffffffffu;
  if (row < params.rows) {
    for (var c = lane; c < params.columns; c += WORKGROUP) {
      let i = row * params.columns + c;
      let rank = rank_r(pick_x(x[i / PER_x], i), LOWEST);
      if (rank > best || place == 0xffffffffu) { best = rank; place = c; }
    }
  }
  ranks[lane] = best;
  places[lane] = place;
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      let other = ranks[lane + half];
      let at = places[lane + half];
      if (at != 0xffffffffu && (other > ranks[lane] || (other == ranks[lane] && at < places[lane]))) {
        ranks[lane] = other;
        places[lane] = at;
      }
    }
  }
  if (lane == 0u && row < params.rows) { y[row] = places[0]; }
}
