// All gradients of group norm in one launch, for small inputs: dx, dweight and dbias as in group_norm_backward and group_norm_finish. LANES
// invocations (library of slot r) walk one group of every image: its channels for their sums, then the group for dx.
// `rows` counts the groups of all images. Grid: flat over ceil(groups of an image · LANES / WORKGROUP) workgroups, folded.
//#use grid
//#use group_norm_channels
//#use f32 as x
//#use f32 as g
//#use f32 as dx
//#use row_workgroup as r
const WORKGROUP = 64u; // invocations
const LANES = 64u; // invocations that share a group
const WALKED = 32u; // channels of a group in all images, at most
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> g: array<Pack_g>;
@group(0) @binding(2) var<storage, read> stats: array<vec2f>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<Pack_dx>;
@group(0) @binding(6) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(7) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(8) var<uniform> params: Params;

// (weight, bias) of a channel.
fn affine(c: u32) -> vec2f {
  var v = vec2f(1.0, 0.0);
  if (params.weighted == 1u) { v.x = weight[c]; }
  if (params.biased == 1u) { v.y = bias[c]; }
  return v;
}

@compute @workgroup_size(WORKGROUP)
fn group_norm_whole_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let own = row_of_r(flat_group(group, groups), invocation);
  let lane = invocation % LANES;
  let norms = params.channels / params.per_group;
  // The reductions need all invocations: those beyond the last group walk empty channels, and all walk a channel in as many rounds.
  let row = min(own, norms - 1u);
  let end = select(0u, params.granules, own < norms);
  let images = params.rows / norms;
  var means: array<vec2f, WALKED>; // of each image
  var totals: array<vec2f, WALKED>; // of each channel, over the images
  for (var n = 0u; n < images; n++) {
    let st = stats[n * norms + row];
    let rstd = inverseSqrt(st.y * params.scale + params.eps);
    var mean = vec2f();
    for (var k = 0u; k < params.per_group; k++) {
      let c = row * params.per_group + k;
      let base = (n * params.channels + c) * params.granules;
      let a = affine(c);
      var sum = vec4f();
      var products = vec4f();
      for (var round = 0u; round < end; round += LANES) {
        let i = base + min(round + lane, params.granules - 1u);
        let h = (unpack_x(x[i]) - st.x) * rstd;
        var e = unpack_g(g[i]);
        if (SWISH) { e *= silu_slope4(h * a.x + a.y); }
        let inside = round + lane < end;
        sum += select(vec4f(), e, inside);
        products += select(vec4f(), e * h, inside);
      }
      let total = row_sum_r(vec2f(hsum_x(sum), hsum_x(products)), invocation);
      mean += total * a.x;
      totals[k] += total;
    }
    means[n] = mean * params.scale;
  }
  for (var n = 0u; n < images; n++) {
    let st = stats[n * norms + row];
    let rstd = inverseSqrt(st.y * params.scale + params.eps);
    for (var k = 0u; k < params.per_group; k++) {
      let c = row * params.per_group + k;
      let base = (n * params.channels + c) * params.granules;
      let a = affine(c);
      for (var i = lane; i < end; i += LANES) {
        let h = (unpack_x(x[base + i]) - st.x) * rstd;
        var e = unpack_g(g[base + i]);
        if (SWISH) { e *= silu_slope4(h * a.x + a.y); }
        dx[base + i] = pack_dx(rstd * (e * a.x - means[n].x - h * means[n].y));
      }
    }
  }
  if (lane != 0u || own >= norms) { return; }
  for (var k = 0u; k < params.per_group; k++) {
    dweight[row * params.per_group + k] = totals[k].y;
    dbias[row * params.per_group + k] = totals[k].x;
  }
}
