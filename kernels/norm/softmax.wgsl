// y = exp(x − max) / Σ exp(x − max) for each row of x [rows, columns]; with LOG its logarithm, (x − max) − log Σ exp(x − max). Statistics in
// f32 in registers. NaN or +infinity in a row makes the sum NaN, and with it the row; the maximum may drop
// them. LANES invocations share a row (library of slot r). Grid: flat over ceil(rows · LANES / WORKGROUP) workgroups, folded.
//#use grid
//#use opaque
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
  let row = row_of_r(flat_group(group, groups), invocation);
  let lane = invocation % LANES;
  // The reductions need all invocations: beyond the last row they are walked with an empty row, and all walk a row in as many rounds.
  let end = select(0u, params.granules, row < params.rows);
  let last = params.granules - 1u;
  let first = row * params.granules;
  var top = vec4f(-3.4028234e38);
  for (var round = 0u; round < end; round += LANES) { top = max(top, unpack_x(x[first + min(round + lane, last)])); }
  let most = row_max_r(hmax_x(top), invocation);
  var sum = vec4f();
  for (var round = 0u; round < end; round += LANES) {
    let i = round + lane;
    sum += select(vec4f(), power_below4(unpack_x(x[first + min(i, last)]), most), i < end);
  }
  let total = row_sum_r(vec2f(hsum_x(sum), 0.0), invocation).x;
  let scale = select(1.0 / total, log(total), LOG);
  for (var i = lane; i < end; i += LANES) {
    let v = unpack_x(x[first + i]);
    if (LOG) {
      y[first + i] = pack_y(opaque4(v - most) - scale); // not x − (most + log): that has the digits of a large most
    } else {
      y[first + i] = pack_y(power_below4(v, most) * scale);
    }
  }
}
