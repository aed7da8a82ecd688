// Gradient of softmax.wgsl from its result y: dx = y · (g − Σ g · y); with LOG dx = g − exp(y) · Σ g. Rows as in softmax.wgsl.
// Grid: flat over ceil(rows · LANES / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as y
//#use f32 as g
//#use f32 as dx
//#use row_workgroup as r
const WORKGROUP = 64u; // invocations
const LANES = 64u; // invocations that share a row
const LOG = false;
struct Params {
  rows: u32, // in the window
  granules: u32, // a row
}
@group(0) @binding(0) var<storage, read> y: array<Pack_y>;
@group(0) @binding(1) var<storage, read> g: array<Pack_g>;
@group(0) @binding(2) var<storage, read_write> dx: array<Pack_dx>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn softmax_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let row = row_of_r(flat_group(group, groups), invocation);
  let lane = invocation % LANES;
  let end = select(0u, params.granules, row < params.rows);
  let last = params.granules - 1u;
  let first = row * params.granules;
  var sum = vec4f();
  for (var round = 0u; round < end; round += LANES) {
    let i = round + lane;
    let at = first + min(i, last);
    var d = unpack_g(g[at]);
    if (!LOG) { d *= unpack_y(y[at]); }
    sum += select(vec4f(), d, i < end);
  }
  let total = row_sum_r(vec2f(hsum_g(sum), 0.0), invocation).x;
  for (var i = lane; i < end; i += LANES) {
    let d = unpack_g(g[first + i]);
    let v = unpack_y(y[first + i]);
    if (LOG) {
      let p = select(exp(clamp(v, vec4f(-104.0), vec4f(0.0))), v, is_nan4(v));
      dx[first + i] = pack_dx(d - p * total);
    } else {
      dx[first + i] = pack_dx(v * (d - total));
    }
  }
}
