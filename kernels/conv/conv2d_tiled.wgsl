// y[n, o, r, q] = bias[o] + sum over c, i, j of X[n, c, r · stride + i - top, q · stride + j - left] · weight[o, c, i, j], where X is x with
// up - 1 zeros between its pixels and zeros around it. x, y NCHW; w is the weight packed by conv2d_pack: [tile of 32 o, c, tap, 32 o] in f32.
// For GPUs: a workgroup of 16 × 16 computes 64 pixels of an image × 64 output channels, in steps of 16 along (c, tap) through workgroup memory;
// an invocation owns 4 pixels × 4 channels. Grid: flat over (blocks of 64 pixels fastest, images, pairs of tiles of o), folded.
//#use grid
//#use conv2d_forward
//#use conv2d_place

const STEP = 16u; // pairs (c, tap) a step
var<workgroup> xs: array<vec4f, 256>; // [STEP, 16] four pixels each
var<workgroup> ws: array<vec4f, 256>; // [STEP, 16] four output channels each

@compute @workgroup_size(256)
fn conv2d_tiled(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pixels = params.out_height * params.out_width;
  let blocks = (pixels + 63u) / 64u;
  let tile = flat_group(group, groups);
  let first = tile % blocks * 64u;
  let image = tile / blocks % params.images;
  let pair = tile / (blocks * params.images);
  let o_pair = (params.o_first / 32u + pair * 2u) * 32u;
  let taps = params.kernel_height * params.kernel_width;
  let depth = params.channels * taps;
  // This invocation loads row lane / 16 of both: pixels and channels of column lane % 16.
  let column = lane % 16u;
  let line = lane / 16u;
  let o_load = o_pair + column * 4u;
  let w_base = params.w_first + (pair * 2u + column / 8u) * params.w_tile + column % 8u;
  var r: vec4i;
  var q: vec4i;
  for (var e = 0u; e < 4u; e++) {
    let at = first + column * 4u + e;
    // Pixels beyond the last are placed outside the image.
    r[e] = select(-0x40000000, i32(at / params.out_width * params.stride) - params.top, at < pixels);
    q[e] = i32(at % params.out_width * params.stride) - params.left;
  }
  var sum0 = vec4f();
  var sum1 = vec4f();
  var sum2 = vec4f();
  var sum3 = vec4f();
  // Its (c, tap), carried along instead of divided for.
  var c = line / taps;
  var tap = line % taps;
  for (var k0 = 0u; k0 < depth; k0 += STEP) {
    var values = vec4f();
    var weights = vec4f();
    if (c < params.channels) {
      let i = i32(tap / params.kernel_width);
      let j = i32(tap % params.kernel_width);
      let base = params.x_first + image * params.x_image + c * params.height * params.width;
      for (var e = 0u; e < 4u; e++) { values[e] = pixel(base, place(r[e] + i, q[e] + j)); }
      if (o_load < params.o_end) { weights = w[w_base + (k0 + line) * 8u]; }
    }
    c += STEP / taps;
    tap += STEP % taps;
    if (tap >= taps) {
      tap -= taps;
      c += 1u;
    }
    xs[lane] = values;
    ws[lane] = weights;
    workgroupBarrier();
    for (var s = 0u; s < STEP; s++) {
      let p = xs[s * 16u + column];
      let v = ws[s * 16u + line];
      sum0 = fma(p, vec4f(v.x), sum0);
      sum1 = fma(p, vec4f(v.y), sum1);
      sum2 = fma(p, vec4f(v.z), sum2);
      sum3 = fma(p, vec4f(v.w), sum3);
    }
    workgroupBarrier();
  }
  let at = first + column * 4u;
  if (at < pixels) {
    let sums = array(sum0, sum1, sum2, sum3);
    for (var s = 0u; s < 4u; s++) { store(image, o_pair + line * 4u + s, at, pixels - at, sums[s]); }
  }
}
