// db[o] = the sum of g [outer, channels, inner] over all but the channels: images × pixels, or pixels × 1 if the channels are adjacent. Then
// (LAST) the granules lie along the channels, else along the pixels. LANES invocations share a granule's channels (library of slot r).
// Grid: flat over ceil(rows · LANES / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as g
//#use row_workgroup as r
const WORKGROUP = 64u; // invocations
const LANES = 64u; // invocations that share a row
const LAST = false; // channels are adjacent
const RUN = 64u; // granules that a lane adds in a row: sums are short
struct Params {
  outer: u32,
  rows: u32, // channels; granules of them with LAST
  inner: u32, // granules of a channel; 1 with LAST
}
@group(0) @binding(0) var<storage, read> g: array<Pack_g>;
@group(0) @binding(1) var<storage, read_write> db: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn conv2d_bias_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let row = row_of_r(flat_group(group, groups), invocation);
  let lane = invocation % LANES;
  // The reductions need all invocations: beyond the last row they add nothing, and all walk as many rounds.
  let is_here = row < params.rows;
  let count = select(params.inner, params.outer, LAST); // granules in a walk: of one image, or of all pixels
  let step = select(1u, params.rows, LAST);
  let walks = select(0u, select(params.outer, 1u, LAST), is_here);
  var sum = vec4f();
  for (var n = 0u; n < walks; n++) {
    let base = select((n * params.rows + row) * params.inner, row, LAST);
    for (var start = 0u; start < count; start += RUN * LANES) {
      let end = min(count, start + RUN * LANES);
      var part = vec4f();
      for (var round = start; round < end; round += LANES) {
        let i = round + lane;
        part += select(vec4f(), unpack_g(g[base + min(i, count - 1u) * step]), i < count);
      }
      sum += part;
    }
  }
  if (!LAST) { sum = vec4f(hsum_g(sum), 0.0, 0.0, 0.0); }
  let low = row_sum_r(sum.xy, invocation);
  var high = vec2f();
  if (LAST) { high = row_sum_r(sum.zw, invocation); }
  if (lane != 0u || !is_here) { return; }
  if (!LAST || W_g == 1u) {
    db[row] = low.x;
  } else {
    db[4u * row] = low.x;
    db[4u * row + 1u] = low.y;
    db[4u * row + 2u] = high.x;
    db[4u * row + 3u] = high.y;
  }
}
