// Bindings of the kernels of quantised weights but a and b, and the scales: two f16 to a word.
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<Word_h>; // or the weight of the norm
@group(0) @binding(4) var<storage, read> residual: array<Pack_r>;
@group(0) @binding(5) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(6) var<uniform> params: Params;

// Scale `i` from the start of the binding.
fn scale_at(i: u32) -> f32 { return unpack2x16float(scales[i >> 1u] >> ((i & 1u) * 16u)).x; }
