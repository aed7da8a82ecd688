// y[row] = index of the largest value of x[row, :], the lowest index among equals. One workgroup a row: each invocation walks every
// WORKGROUP-th column, then a tree in workgroup memory. NaN never wins. Grid: flat over rows, folded.
//#use grid
const WORKGROUP = 64u; // invocations, a power of two
struct Params {
  rows: u32,
  columns: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;
var<workgroup> values: array<f32, WORKGROUP>;
var<workgroup> places: array<u32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn arg_reduce(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups);
  var best = -3.4028234e38;
  var place = 0xffffffffu;
  if (row < params.rows) {
    for (var c = lane; c < params.columns; c += WORKGROUP) {
      let v = x[row * params.columns + c];
      if (v > best || place == 0xffffffffu) { best = v; place = c; }
    }
  }
  values[lane] = best;
  places[lane] = place;
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      let other = values[lane + half];
      let at = places[lane + half];
      if (at != 0xffffffffu && (other > values[lane] || (other == values[lane] && at < places[lane]))) {
        values[lane] = other;
        places[lane] = at;
      }
    }
  }
  if (lane == 0u && row < params.rows) { y[row] = places[0]; }
}
