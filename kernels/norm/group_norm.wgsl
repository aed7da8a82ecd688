// y = act((x - mean) · rstd · weight + bias) for x [N, C, pixels]: mean and rstd of the group of channels from stats [N · groups] (mean, sum of
// squared differences), act the identity or, with SWISH, z · sigmoid(z). A workgroup covers WORKGROUP · GRANULES granules of one channel.
// Grid: flat over channel rows × blocks, folded.
//#use grid
//#use group_norm_channels
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
const GRANULES = 4u; // granules an invocation, a workgroup apart
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> stats: array<vec2f>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn group_norm(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let blocks = (params.granules + WORKGROUP * GRANULES - 1u) / (WORKGROUP * GRANULES);
  let index = flat_group(group, groups);
  let row = index / blocks;
  if (row >= params.rows) { return; }
  let channel = params.first + row;
  let s = stats[channel / params.per_group];
  let c = channel % params.channels;
  var scale = inverseSqrt(s.y * params.scale + params.eps);
  var shift = 0.0;
  if (params.weighted == 1u) { scale *= weight[c]; }
  if (params.biased == 1u) { shift = bias[c]; }
  for (var k = 0u; k < GRANULES; k++) {
    let i = (index % blocks * GRANULES + k) * WORKGROUP + lane;
    if (i < params.granules) {
      var z = (unpack_x(x[row * params.granules + i]) - s.x) * scale + shift;
      if (SWISH) { z = silu4(z); }
      y[row * params.granules + i] = pack_y(z);
    }
  }
}
