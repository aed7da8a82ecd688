// Quantised weights of 4 bits, stored as value + 8, the first in the lowest bits of a word. A load is vec4u.
const VALUES_T = 8u; // in a word
const LOADS_T = 1u; // of a group of 32
const GRANULES_T = 8u; // of four values in a load
// The lower (quad 0) or upper (quad 1) four values: the flipped top bit makes two's complement, which an arithmetic shift extends.
fn values_T(word: u32, quad: u32) -> vec4f {
  return vec4f(bitcast<vec4i>(vec4u(word ^ 0x88888888u) << (vec4u(28u, 24u, 20u, 16u) - vec4u(16u * quad))) >> vec4u(28u));
}
