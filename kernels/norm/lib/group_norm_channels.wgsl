// Parameters of the kernels of group norm that walk channels, and what a granule of a channel's sums and gradients needs.
//#use activations
const SWISH = false; // the result z is replaced by z · sigmoid(z)
struct Params {
  rows: u32, // channels of all images in the window
  first: u32, // the window's first
  channels: u32,
  per_group: u32, // channels
  granules: u32, // granules of a channel
  scale: f32, // 1 / elements of a group
  eps: f32,
  weighted: u32, // 1: weight is there
  biased: u32,
}
