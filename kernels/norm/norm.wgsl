// y = (x − mean) · rstd · weight + bias for each row of x [rows, columns]; rstd = 1 / √(mean((x − mean)²) + eps). Without
// CENTRED (RMS norm) the mean counts as 0. The mean is held as the row's first element and the mean distance to it: a mean that is large
// against the deviation would lose its digits in one f32, so the two are subtracted one after the other. statistics [rows, 4] =
// (first, distance, rstd, 0), for the backward. LANES invocations share a row (library of slot r).
// Grid: flat over ceil(rows · LANES / WORKGROUP) workgroups, folded.
//#use grid
//#use opaque
//#use f32 as x
//#use f32 as w
//#use f32 as b
//#use f32 as y
//#use row_workgroup as r
const WORKGROUP = 64u; // invocations
const LANES = 64u; // invocations that share a row
const CENTRED = true; // layer norm
const WEIGHT = true;
const BIAS = true;
struct Params {
  rows: u32, // in the window
  granules: u32, // a row
  scale: f32, // 1 / columns
  eps: f32,
  base: u32, // row of the bound statistics that the window starts at
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> weight: array<Pack_w>;
@group(0) @binding(2) var<storage, read> bias: array<Pack_b>;
@group(0) @binding(3) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(4) var<storage, read_write> statistics: array<vec4f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn norm(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let row = row_of_r(flat_group(group, groups), invocation);
  let lane = invocation % LANES;
  // The reductions need all invocations: beyond the last row they are walked with an empty row, and all walk a row in as many rounds.
  let end = select(0u, params.granules, row < params.rows);
  let last = params.granules - 1u;
  let first = row * params.granules;
  var shift = 0.0;
  var mean = 0.0;
  if (CENTRED) {
    shift = unpack_x(x[min(row, params.rows - 1u) * params.granules]).x;
    var sum = vec4f();
    for (var round = 0u; round < end; round += LANES) {
      let i = round + lane;
      sum += select(vec4f(), opaque4(unpack_x(x[first + min(i, last)]) - shift), i < end);
    }
    mean = row_sum_r(vec2f(hsum_x(sum), 0.0), invocation).x * params.scale;
  }
  var squares = vec4f();
  for (var round = 0u; round < end; round += LANES) {
    let i = round + lane;
    let v = opaque4(unpack_x(x[first + min(i, last)]) - shift) - mean;
    squares += select(vec4f(), v * v, i < end);
  }
  let rstd = inverseSqrt(row_sum_r(vec2f(hsum_x(squares), 0.0), invocation).x * params.scale + params.eps);
  for (var i = lane; i < end; i += LANES) {
    var v = (opaque4(unpack_x(x[first + i]) - shift) - mean) * rstd;
    if (WEIGHT) { v *= unpack_w(weight[i]); }
    if (BIAS) { v += unpack_b(bias[i]); }
    y[first + i] = pack_y(v);
  }
  if (lane == 0u && row < params.rows) { statistics[params.base + row] = vec4f(shift, mean, rstd, 0.0); }
}
