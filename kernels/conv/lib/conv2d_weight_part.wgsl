// Parameters and bindings of the kernels that compute a part of the gradient of a convolution's weight. x, g NCHW, p f32.
//#use f32 as x
//#use f32 as g
struct Params {
  images: u32, // in this launch
  channels: u32, // channels of x in this launch
  outputs: u32, // outputs of g in this launch
  height: u32, // height of x
  width: u32,
  out_height: u32, // height of g
  out_width: u32,
  kernel_height: u32,
  kernel_width: u32,
  stride: u32,
  top: i32,
  left: i32,
  rows: u32, // (image, row of g) that one part sums
  parts: u32,
  x_first: u32, // element of the launch's first image and channel in the binding
  x_image: u32, // elements from one image to the next
  g_first: u32,
  g_image: u32,
  p_first: u32, // element of the first (o, c) of the launch in part 0
  p_row: u32, // elements from one o to the next
  p_part: u32, // and from one part to the next
  accumulate: u32, // 1: add to p
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read> g: array<Word_g>;
@group(0) @binding(2) var<storage, read_write> p: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

fn put(at: u32, value: f32) {
  var v = value;
  if (params.accumulate == 1u) { v += p[at]; }
  p[at] = v;
}
