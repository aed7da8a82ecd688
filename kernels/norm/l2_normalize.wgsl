// y[row, d] = x[row, d] / max(‖x[row]‖, eps) for d < columns, 0 for columns <= d < pitch: x [rows, columns], y [rows, pitch] f32. Rows are short
// (codes of 8): one invocation a row. Grid: flat over ceil(rows / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use finite
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // in the window
  columns: u32,
  pitch: u32, // pitch of y
  eps: f32, // smallest length
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn l2_normalize(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups) * WORKGROUP + lane;
  if (row >= params.rows) { return; }
  // Scaled by the largest, so that squares of tiny or huge values neither vanish nor overflow.
  var largest = 0.0;
  for (var d = 0u; d < params.columns; d++) {
    let i = row * params.columns + d;
    largest = max(largest, abs(pick_x(x[i / PER_x], i)));
  }
  let unit = max(largest, 1e-30);
  var squares = 0.0;
  for (var d = 0u; d < params.columns; d++) {
    let i = row * params.columns + d;
    let v = pick_x(x[i / PER_x], i) / unit;
    squares += v * v;
  }
  // An infinity divided by itself makes the squares NaN; the length is infinite all the same.
  let length = select(max1(unit * sqrt(squares), params.eps), largest, largest > 3.4028234e38);
  for (var d = 0u; d < params.pitch; d++) {
    let i = row * params.columns + min(d, params.columns - 1u);
    y[row * params.pitch + d] = select(0.0, pick_x(x[i / PER_x], i) / length, d < params.columns);
  }
}
