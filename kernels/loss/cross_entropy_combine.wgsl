// state[r] = (m, Σ e^(x − m), x[target], 0) of a row's columns so far, joined with the partial sums of its next `columns` columns (from
// `column` on), chunk after chunk. The first call of a row starts it. One invocation a row. Grid: flat over ceil(rows / WORKGROUP), folded.
//#use grid
//#use f32 as x
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // in the window
  first: u32, // row of targets and state at which the window starts
  columns: u32, // columns of x
  column: u32, // class of x's first column; 0 starts the state
  chunks: u32,
}
@group(0) @binding(0) var<storage, read> partial: array<vec2f>;
@group(0) @binding(1) var<storage, read> x: array<Word_x>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: array<vec4f>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn cross_entropy_combine(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups) * WORKGROUP + lane;
  if (row >= params.rows) { return; }
  var s = vec4f(-3.4e38, 0.0, 0.0, 0.0);
  if (params.column != 0u) { s = state[params.first + row]; }
  for (var k = row * params.chunks; k < (row + 1u) * params.chunks; k++) {
    let p = partial[k];
    let top = max(s.x, p.x);
    s.y = s.y * exp(max(s.x - top, -104.0)) + p.y * exp(max(p.x - top, -104.0));
    s.x = top;
  }
  let target_column = targets[params.first + row] - params.column; // wraps around before x
  if (target_column < params.columns) {
    let i = row * params.columns + target_column;
    s.z = pick_x(x[i / PER_x], i);
  }
  state[params.first + row] = s;
}
