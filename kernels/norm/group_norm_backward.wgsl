// dx = rstd · (e · weight - a - h · b) for x [N, C, pixels], with h and e as in group_norm_sums, and (a, b) the means over the group of
// e · weight and e · weight · h; sums [N · groups] holds their sums. A workgroup covers WORKGROUP · GRANULES granules of one channel.
// Grid: flat over channel rows × blocks, folded.
//#use grid
//#use group_norm_channels
//#use f32 as x
//#use f32 as g
//#use f32 as dx
const WORKGROUP = 64u; // invocations
const GRANULES = 4u; // granules an invocation, a workgroup apart
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> g: array<Pack_g>;
@group(0) @binding(2) var<storage, read> stats: array<vec2f>;
@group(0) @binding(3) var<storage, read> sums: array<vec2f>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<Pack_dx>;
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn group_norm_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let blocks = (params.granules + WORKGROUP * GRANULES - 1u) / (WORKGROUP * GRANULES);
  let index = flat_group(group, groups);
  let row = index / blocks;
  if (row >= params.rows) { return; }
  let channel = params.first + row;
  let st = stats[channel / params.per_group];
  let means = sums[channel / params.per_group] * params.scale;
  let c = channel % params.channels;
  let rstd = inverseSqrt(st.y * params.scale + params.eps);
  var factor = 1.0;
  var shift = 0.0;
  if (params.weighted == 1u) { factor = weight[c]; }
  if (params.biased == 1u) { shift = bias[c]; }
  for (var k = 0u; k < GRANULES; k++) {
    let i = (index % blocks * GRANULES + k) * WORKGROUP + lane;
    if (i < params.granules) {
      let h = (unpack_x(x[row * params.granules + i]) - st.x) * rstd;
      var e = unpack_g(g[row * params.granules + i]);
      if (SWISH) { e *= silu_slope4(h * factor + shift); }
      dx[row * params.granules + i] = pack_dx(rstd * (e * factor - means.x - h * means.y));
    }
  }
}
