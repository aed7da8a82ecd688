// y[n, o, r, q] = bias[o] + sum over c, i, j of X[n, c, r · stride + i - top, q · stride + j - left] · weight[o, c, i, j], where X is x with
// UP - 1 zeros between its pixels and zeros around it. x, y NCHW; w is the weight packed by conv2d_pack: [tile of 32 o, c, tap, 32 o] in f32.
// The plain form that the others are measured against: an invocation computes one granule of y, element by element.
// Grid: flat over ceil(images · stored channels · granules of a channel / WORKGROUP) workgroups, folded.
//#use grid
//#use conv2d_forward
//#use conv2d_place
const WORKGROUP = 64u; // invocations

@compute @workgroup_size(WORKGROUP)
fn conv2d(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pixels = params.out_height * params.out_width;
  let granules = pixels / W_y;
  let stored = params.o_end - params.o_first;
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= granules * stored * params.images) { return; }
  let o = params.o_first + index / granules % stored;
  let image = index / (granules * stored);
  let taps = params.kernel_height * params.kernel_width;
  let tile = o / 32u - params.o_first / 32u;
  var sum = vec4f();
  for (var e = 0u; e < W_y; e++) {
    let at = index % granules * W_y + e;
    let r = i32(at / params.out_width * params.stride) - params.top;
    let q = i32(at % params.out_width * params.stride) - params.left;
    for (var c = 0u; c < params.channels; c++) {
      for (var tap = 0u; tap < taps; tap++) {
        let found = place(r + i32(tap / params.kernel_width), q + i32(tap % params.kernel_width));
        let weight = w[params.w_first + tile * params.w_tile + (c * taps + tap) * 8u + o % 32u / 4u];
        sum[e] += pixel(params.x_first + image * params.x_image + c * params.height * params.width, found) * weight[o % 4u];
      }
    }
    if (params.biased == 1u) { sum[e] += bias[o]; }
  }
  let at = (params.y_first + image * params.y_image + (o - params.o_first) * pixels) / W_y + index % granules;
  if (params.accumulate == 1u) { sum += unpack_y(y[at]); }
  y[at] = pack_y(sum);
}
