// Group norm of small groups in one launch, y as in group_norm and stats [N · groups] as in group_norm_stats. LANES invocations share a
// group (library of slot r): they walk it for the mean, for the squares and for the result. `rows` and `first` count groups.
// Grid: flat over ceil(rows · LANES / WORKGROUP) workgroups, folded.
//#use grid
//#use group_norm_channels
//#use opaque
//#use f32 as x
//#use f32 as y
//#use row_workgroup as r
const WORKGROUP = 64u; // invocations
const LANES = 64u; // invocations that share a group
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec2f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn group_norm_whole(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let row = row_of_r(flat_group(group, groups), invocation);
  let lane = invocation % LANES;
  // The reductions need all invocations: those beyond the last group walk an empty one, and all walk a group in as many rounds.
  let size = params.per_group * params.granules;
  let end = select(0u, size, row < params.rows);
  let base = min(row, params.rows - 1u) * size;
  let shift = unpack_x(x[base]).x;
  var sum = vec4f();
  for (var round = 0u; round < end; round += LANES) {
    let i = round + lane;
    sum += select(vec4f(), opaque4(unpack_x(x[base + min(i, size - 1u)]) - shift), i < end);
  }
  let distance = row_sum_r(vec2f(hsum_x(sum), 0.0), invocation).x * params.scale;
  var squares = vec4f();
  for (var round = 0u; round < end; round += LANES) {
    let i = round + lane;
    let d = select(vec4f(), opaque4(unpack_x(x[base + min(i, size - 1u)]) - shift) - distance, i < end);
    squares = fma(d, d, squares);
  }
  let spread = row_sum_r(vec2f(hsum_x(squares), 0.0), invocation).x;
  let mean = shift + distance;
  let rstd = inverseSqrt(spread * params.scale + params.eps);
  let channel = (params.first + row) % (params.channels / params.per_group) * params.per_group;
  for (var i = lane; i < end; i += LANES) {
    let c = channel + i / params.granules;
    var scale = rstd;
    var offset = 0.0;
    if (params.weighted == 1u) { scale *= weight[c]; }
    if (params.biased == 1u) { offset = bias[c]; }
    var z = (unpack_x(x[base + i]) - mean) * scale + offset;
    if (SWISH) { z = silu4(z); }
    y[base + i] = pack_y(z);
  }
  if (lane == 0u && row < params.rows) { stats[params.first + row] = vec2f(mean, spread); }
}
