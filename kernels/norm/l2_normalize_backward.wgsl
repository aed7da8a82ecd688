// dx[row] = (g - y (g · y)) / length where length = ‖x[row]‖ > eps and y = x / length; g / eps elsewhere. x, g [rows, columns], dx f32. One
// invocation a row. Grid: flat over ceil(rows / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use f32 as g
//#use finite
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // in the window
  columns: u32,
  eps: f32, // smallest length
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read> g: array<Word_g>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

fn load_x(i: u32) -> f32 { return pick_x(x[i / PER_x], i); }
fn load_g(i: u32) -> f32 { return pick_g(g[i / PER_g], i); }

@compute @workgroup_size(WORKGROUP)
fn l2_normalize_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups) * WORKGROUP + lane;
  if (row >= params.rows) { return; }
  let first = row * params.columns;
  var largest = 0.0;
  for (var d = 0u; d < params.columns; d++) { largest = max(largest, abs(load_x(first + d))); }
  let unit = max(largest, 1e-30);
  var squares = 0.0;
  var product = 0.0;
  for (var d = 0u; d < params.columns; d++) {
    let v = load_x(first + d) / unit;
    squares += v * v;
    product += v * load_g(first + d);
  }
  let length = unit * sqrt(squares);
  for (var d = 0u; d < params.columns; d++) {
    let along = load_x(first + d) / unit * (product / max(squares, 1e-30));
    dx[first + d] = (load_g(first + d) - select(0.0, along, length > params.eps || is_nan(length))) / max1(length, params.eps);
  }
}
