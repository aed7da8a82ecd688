// Scales of quantised weights, two f16 to a word, each loaded by itself.
@group(0) @binding(2) var<storage, read> scales: array<u32>;

// Scale `i` from the start of the binding.
fn scale_at(i: u32) -> f32 { return unpack2x16float(scales[i >> 1u] >> ((i & 1u) * 16u)).x; }
// Scales of group k of four columns, whose first groups are `at`.
fn next_scales_T(held: ptr<function, array<vec4u, 4>>, at: vec4u, k: u32) -> vec4f {
  return vec4f(scale_at(at.x + k), scale_at(at.y + k), scale_at(at.z + k), scale_at(at.w + k));
}
