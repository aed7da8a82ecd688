// p[part, o, c, i, j] = sum over the (n, r) of the part and all q of g[n, o, r, q] · x[n, c, r · stride + i - top, q · stride + j - left]: the gradient
// of a convolution's weight, pixels split into parts that a second kernel adds in their order. x, g NCHW, p f32.
// 3×3, stride 1, for subgroups of 8 and no workgroup memory (software Vulkan). A workgroup is one subgroup: a lane owns one c, all lanes share 16
// output channels and the 9 taps: 144 sums a lane. Four pixels of a row at a time: 12 loads of x (two columns stay from the four before), 8 of g
// by subgroup broadcast, 576 FMAs. Grid: flat over (blocks of 8 c fastest, blocks of 16 o, parts), folded.
enable subgroups;
//#use grid
//#use conv2d_weight_part

fn taps(a: vec3f, g: vec4f, x: vec2f, n: vec4f) -> vec3f {
  return fma(vec3f(g.w), n.yzw, fma(vec3f(g.z), n.xyz, fma(vec3f(g.y), vec3f(x.y, n.xy), fma(vec3f(g.x), vec3f(x, n.x), a))));
}

// x at column u of the row that starts at element `row`; 0 outside the image.
fn pixel(row: i32, u: i32) -> f32 {
  let inside = row >= 0 && u >= 0 && u < i32(params.width);
  let i = u32(select(0, row + u, inside));
  return select(0.0, pick_x(x[i / PER_x], i), inside);
}

fn pixels(row: i32, u: i32) -> vec4f { return vec4f(pixel(row, u), pixel(row, u + 1), pixel(row, u + 2), pixel(row, u + 3)); }

// The first element of row v of the channel at `base`, or -1 outside the image.
fn row_at(base: u32, v: i32) -> i32 {
  return select(-1, i32(base) + v * i32(params.width), v >= 0 && v < i32(params.height));
}

@compute @workgroup_size(8)
fn conv2d_weight_3x3(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let across = (params.channels + 7u) / 8u;
  let down = (params.outputs + 15u) / 16u;
  let tile = flat_group(group, groups);
  let c = tile % across * 8u + lane;
  let o = tile / across % down * 16u;
  let part = tile / (across * down);
  if (part >= params.parts) { return; }
  let area = params.out_height * params.out_width;
  // Channels beyond the last read the last one, and are not stored.
  let base_c = min(c, params.channels - 1u) * params.height * params.width;
  let most = params.outputs - 1u;
  let o0 = min(o + 0u + lane / 4u, most) * area + lane % 4u;
  let o1 = min(o + 2u + lane / 4u, most) * area + lane % 4u;
  let o2 = min(o + 4u + lane / 4u, most) * area + lane % 4u;
  let o3 = min(o + 6u + lane / 4u, most) * area + lane % 4u;
  let o4 = min(o + 8u + lane / 4u, most) * area + lane % 4u;
  let o5 = min(o + 10u + lane / 4u, most) * area + lane % 4u;
  let o6 = min(o + 12u + lane / 4u, most) * area + lane % 4u;
  let o7 = min(o + 14u + lane / 4u, most) * area + lane % 4u;
  var s0a = vec3f(); var s0b = vec3f(); var s0c = vec3f();
  var s1a = vec3f(); var s1b = vec3f(); var s1c = vec3f();
  var s2a = vec3f(); var s2b = vec3f(); var s2c = vec3f();
  var s3a = vec3f(); var s3b = vec3f(); var s3c = vec3f();
  var s4a = vec3f(); var s4b = vec3f(); var s4c = vec3f();
  var s5a = vec3f(); var s5b = vec3f(); var s5c = vec3f();
  var s6a = vec3f(); var s6b = vec3f(); var s6c = vec3f();
  var s7a = vec3f(); var s7b = vec3f(); var s7c = vec3f();
  var s8a = vec3f(); var s8b = vec3f(); var s8c = vec3f();
  var s9a = vec3f(); var s9b = vec3f(); var s9c = vec3f();
  var s10a = vec3f(); var s10b = vec3f(); var s10c = vec3f();
  var s11a = vec3f(); var s11b = vec3f(); var s11c = vec3f();
  var s12a = vec3f(); var s12b = vec3f(); var s12c = vec3f();
  var s13a = vec3f(); var s13b = vec3f(); var s13c = vec3f();
  var s14a = vec3f(); var s14b = vec3f(); var s14c = vec3f();
  var s15a = vec3f(); var s15b = vec3f(); var s15c = vec3f();
  let last = min(params.images * params.out_height, (part + 1u) * params.rows);
  for (var row = part * params.rows; row < last; row++) {
    let image = row / params.out_height;
    let r = row % params.out_height;
    let base = params.x_first + image * params.x_image + base_c;
    let v = i32(r) - params.top;
    let row0 = row_at(base, v);
    let row1 = row_at(base, v + 1);
    let row2 = row_at(base, v + 2);
    var x0 = vec2f(pixel(row0, -params.left), pixel(row0, 1 - params.left));
    var x1 = vec2f(pixel(row1, -params.left), pixel(row1, 1 - params.left));
    var x2 = vec2f(pixel(row2, -params.left), pixel(row2, 1 - params.left));
    let g_row = params.g_first + image * params.g_image + r * params.out_width;
    for (var q = 0u; q < params.out_width; q += 4u) {
      let u = i32(q) + 2 - params.left;
      let n0 = pixels(row0, u);
      let n1 = pixels(row1, u);
      let n2 = pixels(row2, u);
      let exists = q + lane % 4u < params.out_width;
      let u0 = load_g(g_row + q + o0, exists);
      let u1 = load_g(g_row + q + o1, exists);
      let u2 = load_g(g_row + q + o2, exists);
      let u3 = load_g(g_row + q + o3, exists);
      let u4 = load_g(g_row + q + o4, exists);
      let u5 = load_g(g_row + q + o5, exists);
      let u6 = load_g(g_row + q + o6, exists);
      let u7 = load_g(g_row + q + o7, exists);
      let g0 = vec4f(subgroupBroadcast(u0, 0u), subgroupBroadcast(u0, 1u), subgroupBroadcast(u0, 2u), subgroupBroadcast(u0, 3u));
      s0a = taps(s0a, g0, x0, n0); s0b = taps(s0b, g0, x1, n1); s0c = taps(s0c, g0, x2, n2);
      let g1 = vec4f(subgroupBroadcast(u0, 4u), subgroupBroadcast(u0, 5u), subgroupBroadcast(u0, 6u), subgroupBroadcast(u0, 7u));
      s1a = taps(s1a, g1, x0, n0); s1b = taps(s1b, g1, x1, n1); s1c = taps(s1c, g1, x2, n2);
      let g2 = vec4f(subgroupBroadcast(u1, 0u), subgroupBroadcast(u1, 1u), subgroupBroadcast(u1, 2u), subgroupBroadcast(u1, 3u));
      s2a = taps(s2a, g2, x0, n0); s2b = taps(s2b, g2, x1, n1); s2c = taps(s2c, g2, x2, n2);
      let g3 = vec4f(subgroupBroadcast(u1, 4u), subgroupBroadcast(u1, 5u), subgroupBroadcast(u1, 6u), subgroupBroadcast(u1, 7u));
      s3a = taps(s3a, g3, x0, n0); s3b = taps(s3b, g3, x1, n1); s3c = taps(s3c, g3, x2, n2);
      let g4 = vec4f(subgroupBroadcast(u2, 0u), subgroupBroadcast(u2, 1u), subgroupBroadcast(u2, 2u), subgroupBroadcast(u2, 3u));
      s4a = taps(s4a, g4, x0, n0); s4b = taps(s4b, g4, x1, n1); s4c = taps(s4c, g4, x2, n2);
      let g5 = vec4f(subgroupBroadcast(u2, 4u), subgroupBroadcast(u2, 5u), subgroupBroadcast(u2, 6u), subgroupBroadcast(u2, 7u));
      s5a = taps(s5a, g5, x0, n0); s5b = taps(s5b, g5, x1, n1); s5c = taps(s5c, g5, x2, n2);
      let g6 = vec4f(subgroupBroadcast(u3, 0u), subgroupBroadcast(u3, 1u), subgroupBroadcast(u3, 2u), subgroupBroadcast(u3, 3u));
      s6a = taps(s6a, g6, x0, n0); s6b = taps(s6b, g6, x1, n1); s6c = taps(s6c, g6, x2, n2);
      let g7 = vec4f(subgroupBroadcast(u3, 4u), subgroupBroadcast(u3, 5u), subgroupBroadcast(u3, 6u), subgroupBroadcast(u3, 7u));
      s7a = taps(s7a, g7, x0, n0); s7b = taps(s7b, g7, x1, n1); s7c = taps(s7c, g7, x2, n2);
      let g8 = vec4f(subgroupBroadcast(u4, 0u), subgroupBroadcast(u4, 1u), subgroupBroadcast(u4, 2u), subgroupBroadcast(u4, 3u));
      s8a = taps(s8a, g8, x0, n0); s8b = taps(s8b, g8, x1, n1); s8c = taps(s8c, g8, x2, n2);
      let g9 = vec4f(subgroupBroadcast(u4, 4u), subgroupBroadcast(u4, 5u), subgroupBroadcast(u4, 6u), subgroupBroadcast(u4, 7u));
      s9a = taps(s9a, g9, x0, n0); s9b = taps(s9b, g9, x1, n1); s9c = taps(s9c, g9, x2, n2);
      let g10 = vec4f(subgroupBroadcast(u5, 0u), subgroupBroadcast(u5, 1u), subgroupBroadcast(u5, 2u), subgroupBroadcast(u5, 3u));
      s10a = taps(s10a, g10, x0, n0); s10b = taps(s10b, g10, x1, n1); s10c = taps(s10c, g10, x2, n2);
      let g11 = vec4f(subgroupBroadcast(u5, 4u), subgroupBroadcast(u5, 5u), subgroupBroadcast(u5, 6u), subgroupBroadcast(u5, 7u));
      s11a = taps(s11a, g11, x0, n0); s11b = taps(s11b, g11, x1, n1); s11c = taps(s11c, g11, x2, n2);
      let g12 = vec4f(subgroupBroadcast(u6, 0u), subgroupBroadcast(u6, 1u), subgroupBroadcast(u6, 2u), subgroupBroadcast(u6, 3u));
      s12a = taps(s12a, g12, x0, n0); s12b = taps(s12b, g12, x1, n1); s12c = taps(s12c, g12, x2, n2);
      let g13 = vec4f(subgroupBroadcast(u6, 4u), subgroupBroadcast(u6, 5u), subgroupBroadcast(u6, 6u), subgroupBroadcast(u6, 7u));
      s13a = taps(s13a, g13, x0, n0); s13b = taps(s13b, g13, x1, n1); s13c = taps(s13c, g13, x2, n2);
      let g14 = vec4f(subgroupBroadcast(u7, 0u), subgroupBroadcast(u7, 1u), subgroupBroadcast(u7, 2u), subgroupBroadcast(u7, 3u));
      s14a = taps(s14a, g14, x0, n0); s14b = taps(s14b, g14, x1, n1); s14c = taps(s14c, g14, x2, n2);
      let g15 = vec4f(subgroupBroadcast(u7, 4u), subgroupBroadcast(u7, 5u), subgroupBroadcast(u7, 6u), subgroupBroadcast(u7, 7u));
      s15a = taps(s15a, g15, x0, n0); s15b = taps(s15b, g15, x1, n1); s15c = taps(s15c, g15, x2, n2);
      x0 = n0.zw;
      x1 = n1.zw;
      x2 = n2.zw;
    }
  }
  if (c < params.channels) {
    let at = params.p_first + part * params.p_part + o * params.p_row + c * 9u;
    let sums = array(s0a, s0b, s0c, s1a, s1b, s1c, s2a, s2b, s2c, s3a, s3b, s3c, s4a, s4b, s4c, s5a, s5b, s5c, s6a, s6b, s6c, s7a, s7b, s7c, s8a, s8b, s8c, s9a, s9b, s9c, s10a, s10b, s10c, s11a, s11b, s11c, s12a, s12b, s12c, s13a, s13b, s13c, s14a, s14b, s14c, s15a, s15b, s15c);
    for (var k = 0u; k < 144u; k++) {
      if (o + k / 9u < params.outputs) { put(at + k / 9u * params.p_row + k % 9u, sums[k / 3u][k % 3u]); }
    }
  }
}

fn load_g(i: u32, exists: bool) -> f32 {
  let at = select(params.g_first, i, exists);
  return select(0.0, pick_g(g[at / PER_g], at), exists);
}
