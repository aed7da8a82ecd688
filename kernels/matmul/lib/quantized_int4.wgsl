// Quantised weights of 4 bits, stored as value + 8, the first in the lowest bits of a word. A load is vec4u.
const VALUES_T = 8u; // in a word
const LOADS_T = 1u; // of a group of 32
const GRANULES_T = 8u; // of four values in a load
// The lower (quad 0) or upper (quad 1) four values: the flipped top bit makes two's complement, which an arithmetic shift extends.
fn values_T(word: u32, quad: u32) -> vec4f {
  return vec4f(bitcast<vec4i>(vec4u(word ^ 0x88888888u) << (vec4u(28u, 24u, 20u, 16u) - vec4u(16u * quad))) >> vec4u(28u));
}
// The same values times 1, 16, 256 and 4096, in fewer operations: masked in place, they are the lowest bits of the fraction of a float of 2²³ and more.
const POWERS_T = vec4f(1, 16, 256, 4096);
fn raised_T(word: u32, quad: u32) -> vec4f {
  let bits = (vec4u(word >> (16u * quad)) & vec4u(0xfu, 0xf0u, 0xf00u, 0xf000u)) | vec4u(0x4b000000u);
  return bitcast<vec4f>(bits) - (vec4f(8388608) + 8 * POWERS_T);
}
