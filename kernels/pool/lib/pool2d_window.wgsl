// What pool2d and its gradient share: the sizes of a pooling, and by how many elements the mean of a window is divided.
const AVERAGE = false;
const OWN = false; // by the elements in the plane only
struct Params {
  planes: u32, // in the window
  height: u32,
  width: u32,
  out_height: u32,
  out_width: u32,
  kernel_height: u32,
  kernel_width: u32,
  stride_height: u32,
  stride_width: u32,
  pad_height: u32,
  pad_width: u32,
  dilation_height: u32,
  dilation_width: u32,
}
// Elements of the window from row `top` and column `left` of the padded plane, padding included, without what is beyond it.
fn padded_size(top: u32, left: u32) -> u32 {
  let bottom = min(top + params.kernel_height, params.height + 2u * params.pad_height);
  let right = min(left + params.kernel_width, params.width + 2u * params.pad_width);
  return (bottom - top) * (right - left);
}
