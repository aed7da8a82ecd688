// y[n, o, r, q] = bias[o] + sum over c, i, j of X[n, c, r · stride + i - top, q · stride + j - left] · weight[o, c, i, j], where X is x with
// up - 1 zeros between its pixels and zeros around it. x, y NCHW; w is the weight packed by conv2d_pack: [tile of 32 o, c, tap, 32 o] in f32.
// The plain form that the others are measured against: an invocation computes one granule of y, element by element.
// Grid: flat over ceil(images · stored channels · granules of a channel / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use f32 as y
const DILATED = false; // up may be more than 1
const WORKGROUP = 64u; // invocations
struct Params {
  images: u32, // in this launch
  channels: u32, // of x in this launch
  height: u32, // of x
  width: u32,
  out_height: u32,
  out_width: u32,
  kernel_height: u32,
  kernel_width: u32,
  stride: u32,
  up: i32, // zeros inserted between the pixels of x, plus 1: the stride whose gradient this is
  top: i32, // padding, may be negative
  left: i32,
  o_first: u32, // output channels that are stored, from
  o_end: u32, // to before
  x_first: u32, // element of the launch's first image and channel in the binding
  x_image: u32, // elements from one image to the next
  y_first: u32, // element of the first image and of channel o_first
  y_image: u32,
  w_first: u32, // vec4 of the launch's first tile (o_first / 32) and channel
  w_tile: u32, // vec4s from one tile to the next
  biased: u32, // 1: bias is there
  accumulate: u32, // 1: add to y
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(4) var<uniform> params: Params;

// Element of X at row v and column u within a channel, or -1 where it is zero.
fn place(v: i32, u: i32) -> i32 {
  var at = vec2i(v, u);
  var inside = v >= 0 && u >= 0;
  if (DILATED) {
    at = at / params.up;
    inside = inside && all(at * params.up == vec2i(v, u));
  }
  inside = inside && at.x < i32(params.height) && at.y < i32(params.width);
  return select(-1, at.x * i32(params.width) + at.y, inside);
}

fn pixel(base: u32, at: i32) -> f32 {
  let i = base + u32(max(at, 0));
  return select(0.0, pick_x(x[i / PER_x], i), at >= 0);
}

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
