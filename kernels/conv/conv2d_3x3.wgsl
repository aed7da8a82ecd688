// y[n, o, r, q] = bias[o] + sum over c, i, j of x[n, c, STRIDE · r + i - top, STRIDE · q + j - left] · weight[o, c, i, j]: 3×3, for subgroups of 8 and
// no workgroup memory (software Vulkan). x, y NCHW, read in place; w is the weight packed by conv2d_pack: [tile of 32 o, c, tap, 32 o] in f32.
// A workgroup is one subgroup: 8 × ROWS pixels × 32 output channels, a lane 4 of the channels for all pixels. The WIDTH × HEIGHT pixels of an input
// channel under the tile (10 × 4, or 17 × 5; of 4 rows 10 × 6) are 5, 11 or 8 loads a lane, broadcast to all lanes; which of them lie in the image is
// found once, before the loop. So 144 vec4 FMAs (of 4 rows 288) stand against these and 9 vec4 loads. Grid: flat over tiles (across fastest, down, images, tiles of o), folded.
enable subgroups;
//#use grid
//#use conv2d_forward
const STRIDE = 1u; // 1 or 2
const ROWS = 2u; // of pixels in a tile: 2, or 4 with STRIDE 1
const WIDTH = 7u * STRIDE + 3u; // pixels of the tile's input, across
const HEIGHT = (ROWS - 1u) * STRIDE + 3u; // and down
const LOADS = (WIDTH * HEIGHT + 7u) / 8u;

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
  let down = (params.out_height + ROWS - 1u) / ROWS;
  let tile = flat_group(group, groups);
  let q = (tile % across) * 8u;
  let r = (tile / across) % down * ROWS;
  let rest = tile / (across * down);
  let image = rest % params.images;
  let o_tile = rest / params.images;
  let o_group = (params.o_first / 32u + o_tile) * 32u;
  if (o_group >= params.o_end) { return; }
  let o = o_group + lane * 4u;
  let r0 = i32(r * STRIDE) - params.top;
  let q0 = i32(q * STRIDE) - params.left;
  var at: array<i32, LOADS>;
  for (var k = 0u; k < LOADS; k++) { //#unroll
    at[k] = place(k, lane, r0, q0);
  }
  var base = params.x_first + image * params.x_image;
  var wi = params.w_first + o_tile * params.w_tile + lane;
  var sums: array<vec4f, 8u * ROWS>;
  for (var c = 0u; c < params.channels; c++) {
    var held: array<f32, LOADS>;
    for (var k = 0u; k < LOADS; k++) { //#unroll
      held[k] = pixel(base, at[k]);
    }
    var pixels: array<f32, WIDTH * HEIGHT>;
    for (var i = 0u; i < WIDTH * HEIGHT; i++) { //#unroll
      pixels[i] = subgroupShuffle(held[i / 8u], i % 8u);
    }
    var factors: array<vec4f, 9>;
    for (var tap = 0u; tap < 9u; tap++) { //#unroll
      factors[tap] = w[wi + tap * 8u];
    }
    for (var p = 0u; p < 8u * ROWS; p++) { //#unroll
      for (var tap = 0u; tap < 9u; tap++) { //#unroll
        sums[p] = fma(factors[tap], vec4f(pixels[(p / 8u * STRIDE + tap / 3u) * WIDTH + p % 8u * STRIDE + tap % 3u]), sums[p]);
      }
    }
    base += params.height * params.width;
    wi += 72u;
  }
  // One store in a loop: sixteen of them inlined take software Vulkan minutes to compile. A copy: the sums themselves must not be indexed by a variable.
  var results = sums;
  for (var k = 0u; k < 8u * ROWS; k++) {
    let e = k % 4u; // output channel
    let part = k / 4u; // half of a row
    let at = vec2u(r + part / 2u, q + part % 2u * 4u);
    if (at.x < params.out_height && at.y < params.out_width) {
      let v = vec4f(results[part * 4u][e], results[part * 4u + 1u][e], results[part * 4u + 2u][e], results[part * 4u + 3u][e]);
      store(image, o + e, at.x * params.out_width + at.y, params.out_width - at.y, v);
    }
  }
}
