// Granule c of the key or value that begins at `at` of a cache of int8: `width` words of four values, two's complement, the first in the lowest byte;
// then the bf16 scales of their groups of 8 words, two to a word, the first in the low half.
fn values_T(word: u32) -> vec4f { return vec4f(bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u)); }
fn scale_T(pair: u32, c: u32) -> f32 { return bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, (c & 8u) != 0u)); }
fn key_T(at: u32, c: u32, width: u32) -> vec4f { return values_T(keys[at + c]) * scale_T(keys[at + width + (c >> 4u)], c); }
fn value_T(at: u32, c: u32, width: u32) -> vec4f { return values_T(values[at + c]) * scale_T(values[at + width + (c >> 4u)], c); }
