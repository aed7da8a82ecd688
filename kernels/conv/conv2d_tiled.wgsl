// y[n, o, r, q] = bias[o] + sum over c, i, j of X[n, c, r · stride + i - top, q · stride + j - left] · weight[o, c, i, j], where X is x with
// UP - 1 zeros between its pixels and zeros around it. x, y NCHW; w is the weight packed by conv2d_pack: [tile of 32 o, c, tap, 32 o] in f32.
// For GPUs: a workgroup of 16 × 8 computes 128 pixels of an image × 64 output channels, in steps of 16 along (c, tap) through workgroup memory;
// an invocation owns 8 pixels × 8 channels, as four blocks of 4 × 4, halves of the tile apart: neighbours read neighbouring words.
// Grid: flat over (blocks of 128 pixels fastest, images, pairs of tiles of o), folded.
//#use grid
//#use conv2d_forward
//#use conv2d_place

const STEP = 16u; // pairs (c, tap) a step
const WORKGROUP = 128u; // invocations
var<workgroup> xs: array<vec4f, STEP * 32u>; // [STEP, 32] four pixels each
var<workgroup> ws: array<vec4f, STEP * 16u>; // [STEP, 16] four output channels each

// Four pixels of x under a tap of channel c, zero beyond the last channel. Loaded at an index that is always good, for many loads at once.
fn pixels_of(image: u32, c: u32, tap: u32, r: vec4i, q: vec4i) -> vec4f {
  let i = i32(tap / params.kernel_width);
  let j = i32(tap % params.kernel_width);
  let base = params.x_first + image * params.x_image + min(c, params.channels - 1u) * params.height * params.width;
  let counts = c < params.channels;
  return vec4f(
    pixel(base, select(-1, place(r.x + i, q.x + j), counts)),
    pixel(base, select(-1, place(r.y + i, q.y + j), counts)),
    pixel(base, select(-1, place(r.z + i, q.z + j), counts)),
    pixel(base, select(-1, place(r.w + i, q.w + j), counts)),
  );
}

@compute @workgroup_size(WORKGROUP)
fn conv2d_tiled(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pixels = params.out_height * params.out_width;
  let blocks = (pixels + 127u) / 128u;
  let tile = flat_group(group, groups);
  let first = tile % blocks * 128u;
  let image = tile / blocks % params.images;
  let pair = tile / (blocks * params.images);
  let o_pair = (params.o_first / 32u + pair * 2u) * 32u;
  let taps = params.kernel_height * params.kernel_width;
  let depth = params.channels * taps;
  // This invocation loads rows lane / 16 and 8 more of both: pixels of columns lane % 16 and 16 more, channels of column lane % 16.
  let column = lane % 16u;
  let line = lane / 16u;
  // The second tile of the pair may not be there.
  let stored = o_pair + column * 4u < params.o_end;
  let w_base = params.w_first + (pair * 2u + select(0u, column / 8u, stored)) * params.w_tile + column % 8u;
  var r0: vec4i; // rows of X of the pixels at tap 0, and its columns
  var q0: vec4i;
  var r1: vec4i;
  var q1: vec4i;
  for (var e = 0u; e < 4u; e++) {
    let at = first + column * 4u + e;
    // Pixels beyond the last are placed outside the image.
    r0[e] = select(-0x40000000, i32(at / params.out_width * params.stride) - params.top, at < pixels);
    q0[e] = i32(at % params.out_width * params.stride) - params.left;
    r1[e] = select(-0x40000000, i32((at + 64u) / params.out_width * params.stride) - params.top, at + 64u < pixels);
    q1[e] = i32((at + 64u) % params.out_width * params.stride) - params.left;
  }
  var a0 = vec4f(); var a1 = vec4f(); var a2 = vec4f(); var a3 = vec4f(); // first pixels, first channels
  var b0 = vec4f(); var b1 = vec4f(); var b2 = vec4f(); var b3 = vec4f(); // first pixels, last channels
  var c0 = vec4f(); var c1 = vec4f(); var c2 = vec4f(); var c3 = vec4f(); // last pixels, first channels
  var d0 = vec4f(); var d1 = vec4f(); var d2 = vec4f(); var d3 = vec4f(); // last pixels, last channels
  for (var k0 = 0u; k0 < depth; k0 += STEP) {
    for (var e = 0u; e < 2u; e++) {
      let k = k0 + e * 8u + line;
      let channel = k / taps;
      let tap = k - channel * taps;
      xs[(e * 8u + line) * 32u + column] = pixels_of(image, channel, tap, r0, q0);
      xs[(e * 8u + line) * 32u + 16u + column] = pixels_of(image, channel, tap, r1, q1);
      let weights = w[w_base + min(k, depth - 1u) * 8u];
      ws[(e * 8u + line) * 16u + column] = select(vec4f(), weights, stored && k < depth);
    }
    workgroupBarrier();
    for (var s = 0u; s < STEP; s++) {
      let p = xs[s * 32u + column];
      let o = xs[s * 32u + 16u + column];
      let v = ws[s * 16u + line];
      let u = ws[s * 16u + 8u + line];
      a0 = fma(p, vec4f(v.x), a0); c0 = fma(o, vec4f(v.x), c0);
      a1 = fma(p, vec4f(v.y), a1); c1 = fma(o, vec4f(v.y), c1);
      a2 = fma(p, vec4f(v.z), a2); c2 = fma(o, vec4f(v.z), c2);
      a3 = fma(p, vec4f(v.w), a3); c3 = fma(o, vec4f(v.w), c3);
      b0 = fma(p, vec4f(u.x), b0); d0 = fma(o, vec4f(u.x), d0);
      b1 = fma(p, vec4f(u.y), b1); d1 = fma(o, vec4f(u.y), d1);
      b2 = fma(p, vec4f(u.z), b2); d2 = fma(o, vec4f(u.z), d2);
      b3 = fma(p, vec4f(u.w), b3); d3 = fma(o, vec4f(u.w), d3);
    }
    workgroupBarrier();
  }
  // Quarter by quarter: an array of all sums with an index that is not known when compiling would lie in memory.
  var quarter = mat4x4f(a0, a1, a2, a3);
  var next = mat4x4f(b0, b1, b2, b3);
  var third = mat4x4f(c0, c1, c2, c3);
  // A bound that compilers do not know, or they would write out all of it.
  for (var i = 0u; i < min(4u, params.images * 4u); i++) {
    let at = first + (i / 2u) * 64u + column * 4u;
    let o = o_pair + (i % 2u) * 32u + line * 4u;
    for (var s = 0u; s < 4u; s++) {
      if (at < pixels) { store(image, o + s, at, pixels - at, quarter[s]); }
    }
    quarter = next;
    next = third;
    third = mat4x4f(d0, d1, d2, d3);
  }
}
