// p[part, o, c, i, j] = sum over the (n, r) of the part and all q of g[n, o, r, q] · x[n, c, r · stride + i - top, q · stride + j - left]: the gradient
// of a convolution's weight, pixels split into parts that a second kernel adds in their order. x, g NCHW, p f32.
// The plain form, any kernel size: an invocation owns one (c, i, j) and 8 output channels. Grid: flat over (blocks of WORKGROUP (c, i, j) fastest,
// blocks of 8 o, parts), folded.
//#use grid
//#use conv2d_weight_part
const WORKGROUP = 64u; // invocations

fn load_g(i: u32) -> f32 { return pick_g(g[i / PER_g], i); }

@compute @workgroup_size(WORKGROUP)
fn conv2d_weight(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let taps = params.kernel_height * params.kernel_width;
  let across = (params.channels * taps + WORKGROUP - 1u) / WORKGROUP;
  let down = (params.outputs + 7u) / 8u;
  let tile = flat_group(group, groups);
  let k = tile % across * WORKGROUP + lane;
  let o = tile / across % down * 8u;
  let part = tile / (across * down);
  if (part >= params.parts || k >= params.channels * taps) { return; }
  let c = k / taps;
  let i = i32(k % taps / params.kernel_width) - params.top;
  let j = i32(k % params.kernel_width) - params.left;
  let pixels = params.out_height * params.out_width;
  let low = vec4u(0u, 1u, 2u, 3u);
  // Channels beyond the last read the last one, and are not stored.
  let step0 = min(vec4u(o) + low, vec4u(params.outputs - 1u)) * pixels;
  let step1 = min(vec4u(o + 4u) + low, vec4u(params.outputs - 1u)) * pixels;
  var sum0 = vec4f();
  var sum1 = vec4f();
  let last = min(params.images * params.out_height, (part + 1u) * params.rows);
  for (var row = part * params.rows; row < last; row++) {
    let image = row / params.out_height;
    let r = row % params.out_height;
    let v = i32(r * params.stride) + i;
    if (v < 0 || v >= i32(params.height)) { continue; }
    let base = params.x_first + image * params.x_image + (c * params.height + u32(v)) * params.width;
    var at = params.g_first + image * params.g_image + r * params.out_width;
    var u = j;
    for (var q = 0u; q < params.out_width; q++) {
      let a = base + u32(clamp(u, 0, i32(params.width) - 1));
      let value = select(0.0, pick_x(x[a / PER_x], a), u >= 0 && u < i32(params.width));
      sum0 = fma(vec4f(value), vec4f(load_g(at + step0.x), load_g(at + step0.y), load_g(at + step0.z), load_g(at + step0.w)), sum0);
      sum1 = fma(vec4f(value), vec4f(load_g(at + step1.x), load_g(at + step1.y), load_g(at + step1.z), load_g(at + step1.w)), sum1);
      at += 1u;
      u += i32(params.stride);
    }
  }
  for (var e = 0u; e < 8u; e++) {
    if (o + e < params.outputs) { put(params.p_first + part * params.p_part + (o + e) * params.p_row + k, select(sum1[e & 3u], sum0[e & 3u], e < 4u)); }
  }
}
