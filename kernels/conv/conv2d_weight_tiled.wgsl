// p[part, o, c, i, j] = sum over the (n, r) of the part and all q of g[n, o, r, q] · x[n, c, r · stride + i - top, q · stride + j - left]: the gradient
// of a convolution's weight, pixels split into parts that a second kernel adds in their order. x, g NCHW, p f32.
// For GPUs, any kernel size: a workgroup of 16 × 16 computes 64 output channels × 64 (c, i, j) of one part, in steps of 16 pixels through workgroup
// memory; an invocation owns 4 × 4. Grid: flat over (blocks of 64 (c, i, j) fastest, blocks of 64 o, parts), folded.
//#use grid
//#use conv2d_weight_part

const STEP = 16u; // pixels at a time
var<workgroup> xs: array<vec4f, 256>; // [STEP, 16] four (c, i, j) each
var<workgroup> gs: array<vec4f, 256>; // [STEP, 16] four output channels each

@compute @workgroup_size(256)
fn conv2d_weight_tiled(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let taps = params.kernel_height * params.kernel_width;
  let width = params.channels * taps;
  let across = (width + 63u) / 64u;
  let down = (params.outputs + 63u) / 64u;
  let tile = flat_group(group, groups);
  let k0 = tile % across * 64u;
  let o0 = tile / across % down * 64u;
  let part = tile / (across * down);
  let area = params.out_height * params.out_width;
  let column = lane % 16u;
  let line = lane / 16u;
  // This invocation loads pixel `column` of every step: four (c, i, j) and four o of group `line`.
  var offset: vec4u;
  var i: vec4i;
  var j: vec4i;
  for (var e = 0u; e < 4u; e++) {
    let k = min(k0 + line * 4u + e, width - 1u);
    offset[e] = k / taps * params.height * params.width;
    i[e] = i32(k % taps / params.kernel_width) - params.top;
    j[e] = i32(k % params.kernel_width) - params.left;
  }
  let o_load = min(vec4u(o0 + line * 4u) + vec4u(0u, 1u, 2u, 3u), vec4u(params.outputs - 1u)) * area;
  var sum0 = vec4f();
  var sum1 = vec4f();
  var sum2 = vec4f();
  var sum3 = vec4f();
  let first = part * params.rows * params.out_width;
  let last = min(params.images * params.out_height, (part + 1u) * params.rows) * params.out_width;
  for (var t0 = first; t0 < last; t0 += STEP) {
    let t = t0 + column;
    var values = vec4f();
    var grads = vec4f();
    if (t < last) {
      let image = t / area;
      let at = t - image * area;
      let r = i32(at / params.out_width * params.stride);
      let q = i32(at % params.out_width * params.stride);
      for (var e = 0u; e < 4u; e++) {
        let v = r + i[e];
        let u = q + j[e];
        let inside = v >= 0 && v < i32(params.height) && u >= 0 && u < i32(params.width);
        let a = params.x_first + image * params.x_image + offset[e] + select(0u, u32(v) * params.width + u32(u), inside);
        values[e] = select(0.0, pick_x(x[a / PER_x], a), inside);
        let b = params.g_first + image * params.g_image + o_load[e] + at;
        grads[e] = pick_g(g[b / PER_g], b);
      }
    }
    xs[column * 16u + line] = values;
    gs[column * 16u + line] = grads;
    workgroupBarrier();
    for (var s = 0u; s < STEP; s++) {
      let a = xs[s * 16u + column];
      let b = gs[s * 16u + line];
      sum0 = fma(a, vec4f(b.x), sum0);
      sum1 = fma(a, vec4f(b.y), sum1);
      sum2 = fma(a, vec4f(b.z), sum2);
      sum3 = fma(a, vec4f(b.w), sum3);
    }
    workgroupBarrier();
  }
  if (part >= params.parts) { return; }
  let sums = array(sum0, sum1, sum2, sum3);
  for (var s = 0u; s < 16u; s++) {
    let o = o0 + line * 4u + s / 4u;
    let k = k0 + column * 4u + s % 4u;
    if (o < params.outputs && k < width) { put(params.p_first + part * params.p_part + o * params.p_row + k, sums[s / 4u][s % 4u]); }
  }
}
