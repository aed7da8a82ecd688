// p[part, o, c, i, j] = sum over the (n, r) of the part and all q of g[n, o, r, q] · x[n, c, r · stride + i - top, q · stride + j - left]: the gradient
// of a convolution's weight, pixels split into parts that a second kernel adds in their order. x, g NCHW, p f32.
// 3×3, stride 1, for subgroups of 8 and no workgroup memory (software Vulkan). A workgroup is one subgroup: a lane owns one c, all lanes share 16
// output channels and the 9 taps: 144 sums a lane. Four pixels of a row at a time: 12 loads of x (two columns stay from the four before), 8 of g
// by subgroup shuffle, 576 FMAs. Grid: flat over (blocks of 8 c fastest, blocks of 16 o, parts), folded.
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
  var places: array<u32, 8>; // of g's channels: a lane has four of the pixels of two channels
  for (var k = 0u; k < 8u; k++) { //#unroll
    places[k] = min(o + 2u * k + lane / 4u, most) * area + lane % 4u;
  }
  var sums: array<vec3f, 48>; // [16 o, 3 rows of taps]
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
      var held: array<f32, 8>;
      for (var k = 0u; k < 8u; k++) { //#unroll
        held[k] = load_g(g_row + q + places[k], exists);
      }
      for (var k = 0u; k < 16u; k++) { //#unroll
        let h = held[k / 2u];
        const first = k % 2u * 4u;
        let four = vec4f(subgroupShuffle(h, first), subgroupShuffle(h, first + 1u), subgroupShuffle(h, first + 2u), subgroupShuffle(h, first + 3u));
        sums[k * 3u] = taps(sums[k * 3u], four, x0, n0);
        sums[k * 3u + 1u] = taps(sums[k * 3u + 1u], four, x1, n1);
        sums[k * 3u + 2u] = taps(sums[k * 3u + 2u], four, x2, n2);
      }
      x0 = n0.zw;
      x1 = n1.zw;
      x2 = n2.zw;
    }
  }
  if (c < params.channels) {
    let at = params.p_first + part * params.p_part + o * params.p_row + c * 9u;
    let results = sums;
    for (var k = 0u; k < 144u; k++) {
      if (o + k / 9u < params.outputs) { put(at + k / 9u * params.p_row + k % 9u, results[k / 3u][k % 3u]); }
    }
  }
}

fn load_g(i: u32, exists: bool) -> f32 {
  let at = select(params.g_first, i, exists);
  return select(0.0, pick_g(g[at / PER_g], at), exists);
}
