// sums[row, k] = (sum of e, sum of e · h) over chunk k (CHUNK granules) of channel row of x [N, C, pixels], where h = (x - mean) · rstd is the
// normalised value and e the gradient before the activation: g, or with SWISH g · s(1 + z(1 - s)), z = h · weight + bias, s = sigmoid(z).
// They make the gradients of bias and weight, and the two means of the gradient of x. One invocation a chunk.
// Grid: flat over ceil(rows · chunks / WORKGROUP) workgroups, folded.
//#use grid
//#use group_norm_channels
//#use f32 as x
//#use f32 as g
const WORKGROUP = 64u; // invocations
const CHUNK = 64u; // granules
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> g: array<Pack_g>;
@group(0) @binding(2) var<storage, read> stats: array<vec2f>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> sums: array<vec2f>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn group_norm_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let chunks = (params.granules + CHUNK - 1u) / CHUNK;
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.rows * chunks) { return; }
  let row = index / chunks;
  let channel = params.first + row;
  let st = stats[channel / params.per_group];
  let c = channel % params.channels;
  let rstd = inverseSqrt(st.y * params.scale + params.eps);
  var factor = 1.0;
  var shift = 0.0;
  if (params.weighted == 1u) { factor = weight[c]; }
  if (params.biased == 1u) { shift = bias[c]; }
  var sum = vec4f();
  var products = vec4f();
  let last = min(params.granules, (index % chunks + 1u) * CHUNK);
  for (var i = index % chunks * CHUNK; i < last; i++) {
    let h = (unpack_x(x[row * params.granules + i]) - st.x) * rstd;
    var e = unpack_g(g[row * params.granules + i]);
    if (SWISH) { e *= silu_slope4(h * factor + shift); }
    sum += e;
    products = fma(e, h, products);
  }
  sums[params.first * chunks + index] = vec2f(hsum_x(sum), hsum_x(products));
}
