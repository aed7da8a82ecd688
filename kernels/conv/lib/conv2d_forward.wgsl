// Parameters and bindings of the convolution's kernels, and how they read x and store y. x, y NCHW; w is the weight packed by conv2d_pack:
// [tile of 32 o, c, tap, 32 o] in f32.
//#use f32 as x
//#use f32 as y
struct Params {
  images: u32, // in this launch
  channels: u32, // channels of x in this launch
  height: u32, // height of x
  width: u32,
  out_height: u32,
  out_width: u32,
  kernel_height: u32,
  kernel_width: u32,
  stride: u32,
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

// A pixel of x by its element within a channel, 0 for -1.
fn pixel(base: u32, at: i32) -> f32 {
  let i = base + u32(max(at, 0));
  return select(0.0, pick_x(x[i / PER_x], i), at >= 0);
}

// Stores one output channel of the four pixels from `at` on; `count` of them exist. Rows of y are whole granules, or granules are elements.
fn store(image: u32, o: u32, at: u32, count: u32, value: vec4f) {
  if (o < params.o_first || o >= params.o_end) { return; }
  let first = params.y_first + image * params.y_image + (o - params.o_first) * params.out_height * params.out_width + at;
  var v = value;
  if (params.biased == 1u) { v += bias[o]; }
  for (var i = 0u; i < min(count, 4u); i += W_y) {
    var granule = v;
    if (W_y == 1u) { granule = vec4f(v[i], 0.0, 0.0, 0.0); }
    if (params.accumulate == 1u) { granule += unpack_y(y[(first + i) / W_y]); }
    y[(first + i) / W_y] = pack_y(granule);
  }
}
