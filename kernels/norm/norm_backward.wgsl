// Gradient of norm.wgsl for x: with v = (x − mean) · rstd and d = g · weight, dx = rstd · (d − mean(d) − v · mean(d · v)); mean(d) only
// with CENTRED. With PRIOR the gradient so far is added. Rows as in norm.wgsl. Grid: flat over ceil(rows · LANES / WORKGROUP) workgroups, folded.
//#use grid
//#use opaque
//#use f32 as x
//#use f32 as w
//#use f32 as g
//#use f32 as s
//#use f32 as dx
//#use row_workgroup as r
const WORKGROUP = 64u; // invocations
const LANES = 64u; // invocations that share a row
const CENTRED = true; // layer norm
const WEIGHT = true;
const PRIOR = false;
struct Params {
  rows: u32, // in the window
  granules: u32, // a row
  scale: f32, // 1 / columns
  base: u32, // row of the bound statistics that the window starts at
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> weight: array<Pack_w>;
@group(0) @binding(2) var<storage, read> g: array<Pack_g>;
@group(0) @binding(3) var<storage, read> statistics: array<vec4f>;
@group(0) @binding(4) var<storage, read> prior: array<Pack_s>;
@group(0) @binding(5) var<storage, read_write> dx: array<Pack_dx>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn norm_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let row = row_of_r(flat_group(group, groups), invocation);
  let lane = invocation % LANES;
  let end = select(0u, params.granules, row < params.rows);
  let last = params.granules - 1u;
  let first = row * params.granules;
  let known = statistics[params.base + min(row, params.rows - 1u)];
  var sum = vec4f();
  var along = vec4f();
  for (var round = 0u; round < end; round += LANES) {
    let i = round + lane;
    let at = min(i, last);
    var d = unpack_g(g[first + at]);
    if (WEIGHT) { d *= unpack_w(weight[at]); }
    sum += select(vec4f(), d, i < end);
    along += select(vec4f(), d * ((opaque4(unpack_x(x[first + at]) - known.x) - known.y) * known.z), i < end);
  }
  let means = row_sum_r(vec2f(select(0.0, hsum_g(sum), CENTRED), hsum_g(along)), invocation) * params.scale;
  for (var i = lane; i < end; i += LANES) {
    var d = unpack_g(g[first + i]);
    // Rounded as in the sums: contracted with the difference it would not be, and leave a rest where all cancels (rows of one element).
    if (WEIGHT) { d = opaque4(d * unpack_w(weight[i])); }
    let v = (opaque4(unpack_x(x[first + i]) - known.x) - known.y) * known.z;
    var value = known.z * (d - means.x - v * means.y);
    if (PRIOR) { value = opaque4(value) + unpack_s(prior[first + i]); }
    dx[first + i] = pack_dx(value);
  }
}
