// y[n, o, r, q] = bias[o] + sum over c, i, j of x[n, c, STRIDE · r + i - top, STRIDE · q + j - left] · weight[o, c, i, j]: 3×3, for subgroups of 8 and
// no workgroup memory (software Vulkan). x, y NCHW, read in place; w is the weight packed by conv2d_pack: [tile of 32 o, c, tap, 32 o] in f32.
// A workgroup is one subgroup: 8 × 2 pixels × 32 output channels, a lane 4 of the channels for all 16 pixels. The WIDTH × (STRIDE + 3) pixels of an
// input channel under the tile (10 × 4, or 17 × 5) are 5 or 11 loads a lane, broadcast to all lanes; which of them lie in the image is found once,
// before the loop. So 144 vec4 FMAs stand against these and 9 vec4 loads. What STRIDE = 1 does not use of the larger tile, compilers drop.
// Grid: flat over tiles (across fastest, down, images, tiles of o), folded.
enable subgroups;
//#use grid
//#use conv2d_forward
const STRIDE = 1u; // 1 or 2
const WIDTH = 7u * STRIDE + 3u; // pixels of the tile's input, across

fn row(a: vec4f, p0: f32, p1: f32, p2: f32, w0: vec4f, w1: vec4f, w2: vec4f) -> vec4f {
  return fma(w2, vec4f(p2), fma(w1, vec4f(p1), fma(w0, vec4f(p0), a)));
}

// Value k · 8 + lane of the tile's input: its element within a channel, or -1 outside the image.
fn place(k: u32, lane: u32, r: i32, q: i32) -> i32 {
  let i = k * 8u + lane;
  let at = vec2i(r + i32(i / WIDTH), q + i32(i % WIDTH));
  let inside = all(at >= vec2i(0)) && at.x < i32(params.height) && at.y < i32(params.width);
  return select(-1, at.x * i32(params.width) + at.y, inside);
}

@compute @workgroup_size(8)
fn conv2d_3x3(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
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
  let r0 = i32(r * STRIDE) - params.top;
  let q0 = i32(q * STRIDE) - params.left;
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
    let v = array(pixel(base, at0), pixel(base, at1), pixel(base, at2), pixel(base, at3), pixel(base, at4), pixel(base, at5), pixel(base, at6), pixel(base, at7), pixel(base, at8), pixel(base, at9), pixel(base, at10));
    let w0 = w[wi + 0u];
    let w1 = w[wi + 8u];
    let w2 = w[wi + 16u];
    let w3 = w[wi + 24u];
    let w4 = w[wi + 32u];
    let w5 = w[wi + 40u];
    let w6 = w[wi + 48u];
    let w7 = w[wi + 56u];
    let w8 = w[wi + 64u];
    let p0 = array(subgroupBroadcast(v[(0u * WIDTH + 0u) / 8u % 11u], (0u * WIDTH + 0u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 1u) / 8u % 11u], (0u * WIDTH + 1u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 2u) / 8u % 11u], (0u * WIDTH + 2u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 3u) / 8u % 11u], (0u * WIDTH + 3u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 4u) / 8u % 11u], (0u * WIDTH + 4u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 5u) / 8u % 11u], (0u * WIDTH + 5u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 6u) / 8u % 11u], (0u * WIDTH + 6u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 7u) / 8u % 11u], (0u * WIDTH + 7u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 8u) / 8u % 11u], (0u * WIDTH + 8u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 9u) / 8u % 11u], (0u * WIDTH + 9u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 10u) / 8u % 11u], (0u * WIDTH + 10u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 11u) / 8u % 11u], (0u * WIDTH + 11u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 12u) / 8u % 11u], (0u * WIDTH + 12u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 13u) / 8u % 11u], (0u * WIDTH + 13u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 14u) / 8u % 11u], (0u * WIDTH + 14u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 15u) / 8u % 11u], (0u * WIDTH + 15u) % 8u), subgroupBroadcast(v[(0u * WIDTH + 16u) / 8u % 11u], (0u * WIDTH + 16u) % 8u));
    let p1 = array(subgroupBroadcast(v[(1u * WIDTH + 0u) / 8u % 11u], (1u * WIDTH + 0u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 1u) / 8u % 11u], (1u * WIDTH + 1u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 2u) / 8u % 11u], (1u * WIDTH + 2u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 3u) / 8u % 11u], (1u * WIDTH + 3u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 4u) / 8u % 11u], (1u * WIDTH + 4u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 5u) / 8u % 11u], (1u * WIDTH + 5u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 6u) / 8u % 11u], (1u * WIDTH + 6u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 7u) / 8u % 11u], (1u * WIDTH + 7u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 8u) / 8u % 11u], (1u * WIDTH + 8u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 9u) / 8u % 11u], (1u * WIDTH + 9u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 10u) / 8u % 11u], (1u * WIDTH + 10u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 11u) / 8u % 11u], (1u * WIDTH + 11u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 12u) / 8u % 11u], (1u * WIDTH + 12u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 13u) / 8u % 11u], (1u * WIDTH + 13u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 14u) / 8u % 11u], (1u * WIDTH + 14u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 15u) / 8u % 11u], (1u * WIDTH + 15u) % 8u), subgroupBroadcast(v[(1u * WIDTH + 16u) / 8u % 11u], (1u * WIDTH + 16u) % 8u));
    let p2 = array(subgroupBroadcast(v[(2u * WIDTH + 0u) / 8u % 11u], (2u * WIDTH + 0u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 1u) / 8u % 11u], (2u * WIDTH + 1u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 2u) / 8u % 11u], (2u * WIDTH + 2u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 3u) / 8u % 11u], (2u * WIDTH + 3u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 4u) / 8u % 11u], (2u * WIDTH + 4u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 5u) / 8u % 11u], (2u * WIDTH + 5u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 6u) / 8u % 11u], (2u * WIDTH + 6u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 7u) / 8u % 11u], (2u * WIDTH + 7u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 8u) / 8u % 11u], (2u * WIDTH + 8u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 9u) / 8u % 11u], (2u * WIDTH + 9u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 10u) / 8u % 11u], (2u * WIDTH + 10u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 11u) / 8u % 11u], (2u * WIDTH + 11u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 12u) / 8u % 11u], (2u * WIDTH + 12u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 13u) / 8u % 11u], (2u * WIDTH + 13u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 14u) / 8u % 11u], (2u * WIDTH + 14u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 15u) / 8u % 11u], (2u * WIDTH + 15u) % 8u), subgroupBroadcast(v[(2u * WIDTH + 16u) / 8u % 11u], (2u * WIDTH + 16u) % 8u));
    let p3 = array(subgroupBroadcast(v[(3u * WIDTH + 0u) / 8u % 11u], (3u * WIDTH + 0u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 1u) / 8u % 11u], (3u * WIDTH + 1u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 2u) / 8u % 11u], (3u * WIDTH + 2u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 3u) / 8u % 11u], (3u * WIDTH + 3u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 4u) / 8u % 11u], (3u * WIDTH + 4u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 5u) / 8u % 11u], (3u * WIDTH + 5u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 6u) / 8u % 11u], (3u * WIDTH + 6u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 7u) / 8u % 11u], (3u * WIDTH + 7u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 8u) / 8u % 11u], (3u * WIDTH + 8u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 9u) / 8u % 11u], (3u * WIDTH + 9u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 10u) / 8u % 11u], (3u * WIDTH + 10u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 11u) / 8u % 11u], (3u * WIDTH + 11u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 12u) / 8u % 11u], (3u * WIDTH + 12u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 13u) / 8u % 11u], (3u * WIDTH + 13u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 14u) / 8u % 11u], (3u * WIDTH + 14u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 15u) / 8u % 11u], (3u * WIDTH + 15u) % 8u), subgroupBroadcast(v[(3u * WIDTH + 16u) / 8u % 11u], (3u * WIDTH + 16u) % 8u));
    let p4 = array(subgroupBroadcast(v[(4u * WIDTH + 0u) / 8u % 11u], (4u * WIDTH + 0u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 1u) / 8u % 11u], (4u * WIDTH + 1u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 2u) / 8u % 11u], (4u * WIDTH + 2u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 3u) / 8u % 11u], (4u * WIDTH + 3u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 4u) / 8u % 11u], (4u * WIDTH + 4u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 5u) / 8u % 11u], (4u * WIDTH + 5u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 6u) / 8u % 11u], (4u * WIDTH + 6u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 7u) / 8u % 11u], (4u * WIDTH + 7u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 8u) / 8u % 11u], (4u * WIDTH + 8u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 9u) / 8u % 11u], (4u * WIDTH + 9u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 10u) / 8u % 11u], (4u * WIDTH + 10u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 11u) / 8u % 11u], (4u * WIDTH + 11u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 12u) / 8u % 11u], (4u * WIDTH + 12u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 13u) / 8u % 11u], (4u * WIDTH + 13u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 14u) / 8u % 11u], (4u * WIDTH + 14u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 15u) / 8u % 11u], (4u * WIDTH + 15u) % 8u), subgroupBroadcast(v[(4u * WIDTH + 16u) / 8u % 11u], (4u * WIDTH + 16u) % 8u));
    let rows = array(p0, p1, p2, p3, p4);
    a00 = row(row(row(a00, p0[0u], p0[1u], p0[2u], w0, w1, w2), p1[0u], p1[1u], p1[2u], w3, w4, w5), p2[0u], p2[1u], p2[2u], w6, w7, w8);
    a01 = row(row(row(a01, p0[1u * STRIDE + 0u], p0[1u * STRIDE + 1u], p0[1u * STRIDE + 2u], w0, w1, w2), p1[1u * STRIDE + 0u], p1[1u * STRIDE + 1u], p1[1u * STRIDE + 2u], w3, w4, w5), p2[1u * STRIDE + 0u], p2[1u * STRIDE + 1u], p2[1u * STRIDE + 2u], w6, w7, w8);
    a02 = row(row(row(a02, p0[2u * STRIDE + 0u], p0[2u * STRIDE + 1u], p0[2u * STRIDE + 2u], w0, w1, w2), p1[2u * STRIDE + 0u], p1[2u * STRIDE + 1u], p1[2u * STRIDE + 2u], w3, w4, w5), p2[2u * STRIDE + 0u], p2[2u * STRIDE + 1u], p2[2u * STRIDE + 2u], w6, w7, w8);
    a03 = row(row(row(a03, p0[3u * STRIDE + 0u], p0[3u * STRIDE + 1u], p0[3u * STRIDE + 2u], w0, w1, w2), p1[3u * STRIDE + 0u], p1[3u * STRIDE + 1u], p1[3u * STRIDE + 2u], w3, w4, w5), p2[3u * STRIDE + 0u], p2[3u * STRIDE + 1u], p2[3u * STRIDE + 2u], w6, w7, w8);
    a04 = row(row(row(a04, p0[4u * STRIDE + 0u], p0[4u * STRIDE + 1u], p0[4u * STRIDE + 2u], w0, w1, w2), p1[4u * STRIDE + 0u], p1[4u * STRIDE + 1u], p1[4u * STRIDE + 2u], w3, w4, w5), p2[4u * STRIDE + 0u], p2[4u * STRIDE + 1u], p2[4u * STRIDE + 2u], w6, w7, w8);
    a05 = row(row(row(a05, p0[5u * STRIDE + 0u], p0[5u * STRIDE + 1u], p0[5u * STRIDE + 2u], w0, w1, w2), p1[5u * STRIDE + 0u], p1[5u * STRIDE + 1u], p1[5u * STRIDE + 2u], w3, w4, w5), p2[5u * STRIDE + 0u], p2[5u * STRIDE + 1u], p2[5u * STRIDE + 2u], w6, w7, w8);
    a06 = row(row(row(a06, p0[6u * STRIDE + 0u], p0[6u * STRIDE + 1u], p0[6u * STRIDE + 2u], w0, w1, w2), p1[6u * STRIDE + 0u], p1[6u * STRIDE + 1u], p1[6u * STRIDE + 2u], w3, w4, w5), p2[6u * STRIDE + 0u], p2[6u * STRIDE + 1u], p2[6u * STRIDE + 2u], w6, w7, w8);
    a07 = row(row(row(a07, p0[7u * STRIDE + 0u], p0[7u * STRIDE + 1u], p0[7u * STRIDE + 2u], w0, w1, w2), p1[7u * STRIDE + 0u], p1[7u * STRIDE + 1u], p1[7u * STRIDE + 2u], w3, w4, w5), p2[7u * STRIDE + 0u], p2[7u * STRIDE + 1u], p2[7u * STRIDE + 2u], w6, w7, w8);
    a10 = row(row(row(a10, rows[STRIDE][0u], rows[STRIDE][1u], rows[STRIDE][2u], w0, w1, w2), rows[STRIDE + 1u][0u], rows[STRIDE + 1u][1u], rows[STRIDE + 1u][2u], w3, w4, w5), rows[STRIDE + 2u][0u], rows[STRIDE + 2u][1u], rows[STRIDE + 2u][2u], w6, w7, w8);
    a11 = row(row(row(a11, rows[STRIDE][1u * STRIDE + 0u], rows[STRIDE][1u * STRIDE + 1u], rows[STRIDE][1u * STRIDE + 2u], w0, w1, w2), rows[STRIDE + 1u][1u * STRIDE + 0u], rows[STRIDE + 1u][1u * STRIDE + 1u], rows[STRIDE + 1u][1u * STRIDE + 2u], w3, w4, w5), rows[STRIDE + 2u][1u * STRIDE + 0u], rows[STRIDE + 2u][1u * STRIDE + 1u], rows[STRIDE + 2u][1u * STRIDE + 2u], w6, w7, w8);
    a12 = row(row(row(a12, rows[STRIDE][2u * STRIDE + 0u], rows[STRIDE][2u * STRIDE + 1u], rows[STRIDE][2u * STRIDE + 2u], w0, w1, w2), rows[STRIDE + 1u][2u * STRIDE + 0u], rows[STRIDE + 1u][2u * STRIDE + 1u], rows[STRIDE + 1u][2u * STRIDE + 2u], w3, w4, w5), rows[STRIDE + 2u][2u * STRIDE + 0u], rows[STRIDE + 2u][2u * STRIDE + 1u], rows[STRIDE + 2u][2u * STRIDE + 2u], w6, w7, w8);
    a13 = row(row(row(a13, rows[STRIDE][3u * STRIDE + 0u], rows[STRIDE][3u * STRIDE + 1u], rows[STRIDE][3u * STRIDE + 2u], w0, w1, w2), rows[STRIDE + 1u][3u * STRIDE + 0u], rows[STRIDE + 1u][3u * STRIDE + 1u], rows[STRIDE + 1u][3u * STRIDE + 2u], w3, w4, w5), rows[STRIDE + 2u][3u * STRIDE + 0u], rows[STRIDE + 2u][3u * STRIDE + 1u], rows[STRIDE + 2u][3u * STRIDE + 2u], w6, w7, w8);
    a14 = row(row(row(a14, rows[STRIDE][4u * STRIDE + 0u], rows[STRIDE][4u * STRIDE + 1u], rows[STRIDE][4u * STRIDE + 2u], w0, w1, w2), rows[STRIDE + 1u][4u * STRIDE + 0u], rows[STRIDE + 1u][4u * STRIDE + 1u], rows[STRIDE + 1u][4u * STRIDE + 2u], w3, w4, w5), rows[STRIDE + 2u][4u * STRIDE + 0u], rows[STRIDE + 2u][4u * STRIDE + 1u], rows[STRIDE + 2u][4u * STRIDE + 2u], w6, w7, w8);
    a15 = row(row(row(a15, rows[STRIDE][5u * STRIDE + 0u], rows[STRIDE][5u * STRIDE + 1u], rows[STRIDE][5u * STRIDE + 2u], w0, w1, w2), rows[STRIDE + 1u][5u * STRIDE + 0u], rows[STRIDE + 1u][5u * STRIDE + 1u], rows[STRIDE + 1u][5u * STRIDE + 2u], w3, w4, w5), rows[STRIDE + 2u][5u * STRIDE + 0u], rows[STRIDE + 2u][5u * STRIDE + 1u], rows[STRIDE + 2u][5u * STRIDE + 2u], w6, w7, w8);
    a16 = row(row(row(a16, rows[STRIDE][6u * STRIDE + 0u], rows[STRIDE][6u * STRIDE + 1u], rows[STRIDE][6u * STRIDE + 2u], w0, w1, w2), rows[STRIDE + 1u][6u * STRIDE + 0u], rows[STRIDE + 1u][6u * STRIDE + 1u], rows[STRIDE + 1u][6u * STRIDE + 2u], w3, w4, w5), rows[STRIDE + 2u][6u * STRIDE + 0u], rows[STRIDE + 2u][6u * STRIDE + 1u], rows[STRIDE + 2u][6u * STRIDE + 2u], w6, w7, w8);
    a17 = row(row(row(a17, rows[STRIDE][7u * STRIDE + 0u], rows[STRIDE][7u * STRIDE + 1u], rows[STRIDE][7u * STRIDE + 2u], w0, w1, w2), rows[STRIDE + 1u][7u * STRIDE + 0u], rows[STRIDE + 1u][7u * STRIDE + 1u], rows[STRIDE + 1u][7u * STRIDE + 2u], w3, w4, w5), rows[STRIDE + 2u][7u * STRIDE + 0u], rows[STRIDE + 2u][7u * STRIDE + 1u], rows[STRIDE + 2u][7u * STRIDE + 2u], w6, w7, w8);
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
