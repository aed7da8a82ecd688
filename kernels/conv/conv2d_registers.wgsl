// y[n, o, r, q] = bias[o] + sum over c, i, j of X[n, c, r · stride + i - top, q · stride + j - left] · weight[o, c, i, j], where X is x with
// UP - 1 zeros between its pixels and zeros around it. x, y NCHW; w is the weight packed by conv2d_pack: [tile of 32 o, c, tap, 32 o] in f32.
// Any kernel size, no subgroups, no workgroup memory. An invocation owns 4 output channels of 8 consecutive pixels of an image; a workgroup of 8
// the 32 channels of a tile, so that x is read at addresses they share. Taps outside, channels inside: pixels are located once per tap, and a
// tap that reads nothing but zeros is skipped. Grid: flat over (blocks of 8 pixels fastest, images, tiles of o), folded.
//#use grid
//#use conv2d_forward
//#use conv2d_place

// X under pixel `at` (flat index in y) at tap (i, j).
fn locate(at: u32, i: u32, j: u32) -> i32 {
  let r = at / params.out_width;
  let q = at % params.out_width;
  let found = place(i32(r * params.stride + i) - params.top, i32(q * params.stride + j) - params.left);
  return select(-1, found, r < params.out_height);
}

@compute @workgroup_size(8)
fn conv2d_registers(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pixels = params.out_height * params.out_width;
  let blocks = (pixels + 7u) / 8u;
  let tile = flat_group(group, groups);
  let first = tile % blocks * 8u;
  let image = tile / blocks % params.images;
  let o_tile = tile / (blocks * params.images);
  let o_group = (params.o_first / 32u + o_tile) * 32u;
  if (o_group >= params.o_end) { return; }
  let o = o_group + lane * 4u;
  let step = params.height * params.width;
  let taps = params.kernel_height * params.kernel_width;
  // Compilers do not know that it is 1: written out, places and stores are most of the kernel's compile time.
  let one = 1u + (params.channels >> 31u);
  var a0 = vec4f(); var a1 = vec4f(); var a2 = vec4f(); var a3 = vec4f(); var a4 = vec4f(); var a5 = vec4f(); var a6 = vec4f(); var a7 = vec4f();
  for (var tap = 0u; tap < taps; tap++) {
    let i = tap / params.kernel_width;
    let j = tap % params.kernel_width;
    var at: array<i32, 8>;
    for (var k = 0u; k < 8u; k += one) { at[k] = locate(first + k, i, j); }
    let at0 = at[0]; let at1 = at[1]; let at2 = at[2]; let at3 = at[3]; let at4 = at[4]; let at5 = at[5]; let at6 = at[6]; let at7 = at[7];
    if (max(max(max(at0, at1), max(at2, at3)), max(max(at4, at5), max(at6, at7))) < 0) { continue; }
    var base = params.x_first + image * params.x_image;
    var wi = params.w_first + o_tile * params.w_tile + tap * 8u + lane;
    for (var c = 0u; c < params.channels; c++) {
      let wc = w[wi];
      a0 = fma(wc, vec4f(pixel(base, at0)), a0);
      a1 = fma(wc, vec4f(pixel(base, at1)), a1);
      a2 = fma(wc, vec4f(pixel(base, at2)), a2);
      a3 = fma(wc, vec4f(pixel(base, at3)), a3);
      a4 = fma(wc, vec4f(pixel(base, at4)), a4);
      a5 = fma(wc, vec4f(pixel(base, at5)), a5);
      a6 = fma(wc, vec4f(pixel(base, at6)), a6);
      a7 = fma(wc, vec4f(pixel(base, at7)), a7);
      base += step;
      wi += taps * 8u;
    }
  }
  let sums = array(a0, a1, a2, a3, a4, a5, a6, a7);
  for (var k = 0u; k < 8u; k += one) {
    let e = k % 4u; // output channel
    let half = k / 4u * 4u;
    if (first + half < pixels) {
      store(image, o + e, first + half, pixels - first - half, vec4f(sums[half][e], sums[half + 1u][e], sums[half + 2u][e], sums[half + 3u][e]));
    }
  }
}
