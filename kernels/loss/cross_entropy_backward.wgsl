// dx[r, v] = coefficient[r] · (e^(x[r, v] − lse[r]) − [column + v = target[r]]) for x [rows, columns], whose first column is class `column`.
// An invocation computes GRANULES granules of one row, `steps` apart. Grid: flat over ceil(rows · steps / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
const GRANULES = 4u; // granules an invocation
struct Params {
  rows: u32, // in the window
  first: u32, // row of lse, targets and coefficient at which the window starts
  granules: u32, // a row
  steps: u32, // invocations a row
  column: u32,
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read> coefficient: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<Pack_y>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn cross_entropy_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let row = index / params.steps;
  if (row >= params.rows) { return; }
  let l = lse[params.first + row];
  let scale = coefficient[params.first + row];
  let hot = vec4u(targets[params.first + row] - params.column); // wraps around before x: no column of it
  for (var g = 0u; g < GRANULES; g++) {
    let c = index % params.steps + g * params.steps;
    if (c < params.granules) {
      let at = row * params.granules + c;
      // A NaN or +infinity anywhere in the row has made its log-sum NaN.
      let p = select(exp(clamp(unpack_x(x[at]) - V4_x(l), V4_x(-104.0), V4_x(88.0))), vec4f(l), is_nan(l));
      let own = vec4u(c * W_x) + vec4u(0u, 1u, 2u, 3u) == hot;
      dx[at] = pack_y(V4_y(scale * (p - select(vec4f(), vec4f(1.0), own))));
    }
  }
}
