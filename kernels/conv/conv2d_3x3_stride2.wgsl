// y[n, o, r, q] = bias[o] + sum over c, i, j of x[n, c, 2r + i - top, 2q + j - left] · weight[o, c, i, j]: 3×3, stride 2, for subgroups of 8 and no
// workgroup memory (software Vulkan). x, y NCHW, read in place; w is the weight packed by conv2d_pack: [tile of 32 o, c, tap, 32 o] in f32.
// A workgroup is one subgroup: 8 × 2 pixels × 32 output channels, a lane 4 of the channels for all 16 pixels. The 17 × 5 pixels of an input
// channel under the tile are 11 loads a lane, handed round by broadcasts; which of them lie in the image is found once, before the loop.
// So 144 vec4 FMAs stand against 11 scalar and 9 vec4 loads. Grid: flat over tiles (across fastest, down, images, tiles of o), folded.
enable subgroups;
//#use grid
//#use conv2d_forward

fn row(a: vec4f, p0: f32, p1: f32, p2: f32, w0: vec4f, w1: vec4f, w2: vec4f) -> vec4f {
  return fma(w2, vec4f(p2), fma(w1, vec4f(p1), fma(w0, vec4f(p0), a)));
}

// Value k · 8 + lane of the tile's 17 × 5 pixels: its element within a channel, or -1 outside the image.
fn place(k: u32, lane: u32, r: i32, q: i32) -> i32 {
  let i = i32(k * 8u + lane);
  let at = vec2i(r + i / 17, q + i % 17);
  let inside = all(at >= vec2i(0)) && at.x < i32(params.height) && at.y < i32(params.width);
  return select(-1, at.x * i32(params.width) + at.y, inside);
}

@compute @workgroup_size(8)
fn conv2d_3x3_stride2(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let across = (params.out_width + 7u) / 8u;
  let down = (params.out_height + 1u) / 2u;
  let tile = flat_group(group, groups);
  let q = (tile % across) * 8u;
  let r = (tile / across) % down * 2u;
  let rest = tile / (across * down);
  let image = rest % params.images;
  let o_tile = rest / params.images;
  let o_group = (params.o_first / 32u + o_tile) * 32u;
  if (o_group >= params.o_end) { return; }
  let o = o_group + lane * 4u;
  let r0 = i32(r * 2u) - params.top;
  let q0 = i32(q * 2u) - params.left;
  let at0 = place(0u, lane, r0, q0);
  let at1 = place(1u, lane, r0, q0);
  let at2 = place(2u, lane, r0, q0);
  let at3 = place(3u, lane, r0, q0);
  let at4 = place(4u, lane, r0, q0);
  let at5 = place(5u, lane, r0, q0);
  let at6 = place(6u, lane, r0, q0);
  let at7 = place(7u, lane, r0, q0);
  let at8 = place(8u, lane, r0, q0);
  let at9 = place(9u, lane, r0, q0);
  let at10 = place(10u, lane, r0, q0);
  var base = params.x_first + image * params.x_image;
  var wi = params.w_first + o_tile * params.w_tile + lane;
  var a00 = vec4f(); var a01 = vec4f(); var a02 = vec4f(); var a03 = vec4f(); var a04 = vec4f(); var a05 = vec4f(); var a06 = vec4f(); var a07 = vec4f();
  var a10 = vec4f(); var a11 = vec4f(); var a12 = vec4f(); var a13 = vec4f(); var a14 = vec4f(); var a15 = vec4f(); var a16 = vec4f(); var a17 = vec4f();
  for (var c = 0u; c < params.channels; c++) {
    let v0 = pixel(base, at0);
    let v1 = pixel(base, at1);
    let v2 = pixel(base, at2);
    let v3 = pixel(base, at3);
    let v4 = pixel(base, at4);
    let v5 = pixel(base, at5);
    let v6 = pixel(base, at6);
    let v7 = pixel(base, at7);
    let v8 = pixel(base, at8);
    let v9 = pixel(base, at9);
    let v10 = pixel(base, at10);
    let w0 = w[wi + 0u];
    let w1 = w[wi + 8u];
    let w2 = w[wi + 16u];
    let w3 = w[wi + 24u];
    let w4 = w[wi + 32u];
    let w5 = w[wi + 40u];
    let w6 = w[wi + 48u];
    let w7 = w[wi + 56u];
    let w8 = w[wi + 64u];
    let p0_0 = subgroupBroadcast(v0, 0u); let p0_1 = subgroupBroadcast(v0, 1u); let p0_2 = subgroupBroadcast(v0, 2u); let p0_3 = subgroupBroadcast(v0, 3u); let p0_4 = subgroupBroadcast(v0, 4u); let p0_5 = subgroupBroadcast(v0, 5u); let p0_6 = subgroupBroadcast(v0, 6u); let p0_7 = subgroupBroadcast(v0, 7u); let p0_8 = subgroupBroadcast(v1, 0u); let p0_9 = subgroupBroadcast(v1, 1u); let p0_10 = subgroupBroadcast(v1, 2u); let p0_11 = subgroupBroadcast(v1, 3u); let p0_12 = subgroupBroadcast(v1, 4u); let p0_13 = subgroupBroadcast(v1, 5u); let p0_14 = subgroupBroadcast(v1, 6u); let p0_15 = subgroupBroadcast(v1, 7u); let p0_16 = subgroupBroadcast(v2, 0u);
    let p1_0 = subgroupBroadcast(v2, 1u); let p1_1 = subgroupBroadcast(v2, 2u); let p1_2 = subgroupBroadcast(v2, 3u); let p1_3 = subgroupBroadcast(v2, 4u); let p1_4 = subgroupBroadcast(v2, 5u); let p1_5 = subgroupBroadcast(v2, 6u); let p1_6 = subgroupBroadcast(v2, 7u); let p1_7 = subgroupBroadcast(v3, 0u); let p1_8 = subgroupBroadcast(v3, 1u); let p1_9 = subgroupBroadcast(v3, 2u); let p1_10 = subgroupBroadcast(v3, 3u); let p1_11 = subgroupBroadcast(v3, 4u); let p1_12 = subgroupBroadcast(v3, 5u); let p1_13 = subgroupBroadcast(v3, 6u); let p1_14 = subgroupBroadcast(v3, 7u); let p1_15 = subgroupBroadcast(v4, 0u); let p1_16 = subgroupBroadcast(v4, 1u);
    let p2_0 = subgroupBroadcast(v4, 2u); let p2_1 = subgroupBroadcast(v4, 3u); let p2_2 = subgroupBroadcast(v4, 4u); let p2_3 = subgroupBroadcast(v4, 5u); let p2_4 = subgroupBroadcast(v4, 6u); let p2_5 = subgroupBroadcast(v4, 7u); let p2_6 = subgroupBroadcast(v5, 0u); let p2_7 = subgroupBroadcast(v5, 1u); let p2_8 = subgroupBroadcast(v5, 2u); let p2_9 = subgroupBroadcast(v5, 3u); let p2_10 = subgroupBroadcast(v5, 4u); let p2_11 = subgroupBroadcast(v5, 5u); let p2_12 = subgroupBroadcast(v5, 6u); let p2_13 = subgroupBroadcast(v5, 7u); let p2_14 = subgroupBroadcast(v6, 0u); let p2_15 = subgroupBroadcast(v6, 1u); let p2_16 = subgroupBroadcast(v6, 2u);
    let p3_0 = subgroupBroadcast(v6, 3u); let p3_1 = subgroupBroadcast(v6, 4u); let p3_2 = subgroupBroadcast(v6, 5u); let p3_3 = subgroupBroadcast(v6, 6u); let p3_4 = subgroupBroadcast(v6, 7u); let p3_5 = subgroupBroadcast(v7, 0u); let p3_6 = subgroupBroadcast(v7, 1u); let p3_7 = subgroupBroadcast(v7, 2u); let p3_8 = subgroupBroadcast(v7, 3u); let p3_9 = subgroupBroadcast(v7, 4u); let p3_10 = subgroupBroadcast(v7, 5u); let p3_11 = subgroupBroadcast(v7, 6u); let p3_12 = subgroupBroadcast(v7, 7u); let p3_13 = subgroupBroadcast(v8, 0u); let p3_14 = subgroupBroadcast(v8, 1u); let p3_15 = subgroupBroadcast(v8, 2u); let p3_16 = subgroupBroadcast(v8, 3u);
    let p4_0 = subgroupBroadcast(v8, 4u); let p4_1 = subgroupBroadcast(v8, 5u); let p4_2 = subgroupBroadcast(v8, 6u); let p4_3 = subgroupBroadcast(v8, 7u); let p4_4 = subgroupBroadcast(v9, 0u); let p4_5 = subgroupBroadcast(v9, 1u); let p4_6 = subgroupBroadcast(v9, 2u); let p4_7 = subgroupBroadcast(v9, 3u); let p4_8 = subgroupBroadcast(v9, 4u); let p4_9 = subgroupBroadcast(v9, 5u); let p4_10 = subgroupBroadcast(v9, 6u); let p4_11 = subgroupBroadcast(v9, 7u); let p4_12 = subgroupBroadcast(v10, 0u); let p4_13 = subgroupBroadcast(v10, 1u); let p4_14 = subgroupBroadcast(v10, 2u); let p4_15 = subgroupBroadcast(v10, 3u); let p4_16 = subgroupBroadcast(v10, 4u);
    a00 = row(row(row(a00, p0_0, p0_1, p0_2, w0, w1, w2), p1_0, p1_1, p1_2, w3, w4, w5), p2_0, p2_1, p2_2, w6, w7, w8);
    a01 = row(row(row(a01, p0_2, p0_3, p0_4, w0, w1, w2), p1_2, p1_3, p1_4, w3, w4, w5), p2_2, p2_3, p2_4, w6, w7, w8);
    a02 = row(row(row(a02, p0_4, p0_5, p0_6, w0, w1, w2), p1_4, p1_5, p1_6, w3, w4, w5), p2_4, p2_5, p2_6, w6, w7, w8);
    a03 = row(row(row(a03, p0_6, p0_7, p0_8, w0, w1, w2), p1_6, p1_7, p1_8, w3, w4, w5), p2_6, p2_7, p2_8, w6, w7, w8);
    a04 = row(row(row(a04, p0_8, p0_9, p0_10, w0, w1, w2), p1_8, p1_9, p1_10, w3, w4, w5), p2_8, p2_9, p2_10, w6, w7, w8);
    a05 = row(row(row(a05, p0_10, p0_11, p0_12, w0, w1, w2), p1_10, p1_11, p1_12, w3, w4, w5), p2_10, p2_11, p2_12, w6, w7, w8);
    a06 = row(row(row(a06, p0_12, p0_13, p0_14, w0, w1, w2), p1_12, p1_13, p1_14, w3, w4, w5), p2_12, p2_13, p2_14, w6, w7, w8);
    a07 = row(row(row(a07, p0_14, p0_15, p0_16, w0, w1, w2), p1_14, p1_15, p1_16, w3, w4, w5), p2_14, p2_15, p2_16, w6, w7, w8);
    a10 = row(row(row(a10, p2_0, p2_1, p2_2, w0, w1, w2), p3_0, p3_1, p3_2, w3, w4, w5), p4_0, p4_1, p4_2, w6, w7, w8);
    a11 = row(row(row(a11, p2_2, p2_3, p2_4, w0, w1, w2), p3_2, p3_3, p3_4, w3, w4, w5), p4_2, p4_3, p4_4, w6, w7, w8);
    a12 = row(row(row(a12, p2_4, p2_5, p2_6, w0, w1, w2), p3_4, p3_5, p3_6, w3, w4, w5), p4_4, p4_5, p4_6, w6, w7, w8);
    a13 = row(row(row(a13, p2_6, p2_7, p2_8, w0, w1, w2), p3_6, p3_7, p3_8, w3, w4, w5), p4_6, p4_7, p4_8, w6, w7, w8);
    a14 = row(row(row(a14, p2_8, p2_9, p2_10, w0, w1, w2), p3_8, p3_9, p3_10, w3, w4, w5), p4_8, p4_9, p4_10, w6, w7, w8);
    a15 = row(row(row(a15, p2_10, p2_11, p2_12, w0, w1, w2), p3_10, p3_11, p3_12, w3, w4, w5), p4_10, p4_11, p4_12, w6, w7, w8);
    a16 = row(row(row(a16, p2_12, p2_13, p2_14, w0, w1, w2), p3_12, p3_13, p3_14, w3, w4, w5), p4_12, p4_13, p4_14, w6, w7, w8);
    a17 = row(row(row(a17, p2_14, p2_15, p2_16, w0, w1, w2), p3_14, p3_15, p3_16, w3, w4, w5), p4_14, p4_15, p4_16, w6, w7, w8);
    base += params.height * params.width;
    wi += 72u;
  }
  // One store in a loop: sixteen of them inlined take software Vulkan minutes to compile.
  let sums = array(a00, a01, a02, a03, a04, a05, a06, a07, a10, a11, a12, a13, a14, a15, a16, a17);
  for (var k = 0u; k < 16u; k++) {
    let e = k % 4u; // output channel
    let part = k / 4u; // half of a row
    let at = vec2u(r + part / 2u, q + part % 2u * 4u);
    if (at.x < params.out_height && at.y < params.out_width) {
      let v = vec4f(sums[part * 4u][e], sums[part * 4u + 1u][e], sums[part * 4u + 2u][e], sums[part * 4u + 3u][e]);
      store(image, o + e, at.x * params.out_width + at.y, params.out_width - at.y, v);
    }
  }
}
