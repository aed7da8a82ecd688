// y = exp(x − max) / Σ exp(x − max) for each row of x [rows, columns]; with LOG its logarithm, (x − max) − log Σ exp(x − max). Statistics in
// f32 in registers. NaN or +infinity in a row makes the sum NaN, and with it the row; the maximum may drop them. LANES invocations share a row (library of slot r). Grid: flat over ceil(rows · LANES / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use f32 as y
//#use row_workgroup as r
const WORKGROUP = 64u; // invocations
const LANES = 64u; // invocations that share a row
const LOG = false;
struct Params {
  rows: u32, // in the window
  granules: u32, // a row
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn softmax(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let row = flat_group(group, groups) * (WORKGROUP / LANES) + invocation / LANES;
  let lane = invocation % LANES;
  // Beyond the last row the reductions are walked with an empty row: they need all invocations.
  let end = select(0u, params.granules, row < params.rows);
  let first = row * params.granules;
  var top = vec4f(-3.4028234e38);
  for (var i = lane; i < end; i += LANES) { top = max(top, unpack_x(x[first + i])); }
  let most = row_max_r(hmax_x(top), invocation);
  var sum = vec4f();
  for (var i = lane; i < end; i += LANES) { sum += power_below4(unpack_x(x[first + i]), most); }
  let total = row_sum_r(vec2f(hsum_x(sum), 0.0), invocation).x;
  let scale = select(1.0 / total, log(total), LOG);
  for (var i = lane; i < end; i += LANES) {
    let v = unpack_x(x[first + i]);
    if (LOG) {
      y[first + i] = pack_y((v - most) - scale);
    } else {
      y[first + i] = pack_y(power_below4(v, most) * scale);
    }
  }
}
