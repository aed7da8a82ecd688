// Quantised weights of 8 bits, two's complement, the first in the lowest byte of a word. A load is vec4u.
const VALUES_T = 4u; // in a word
const LOADS_T = 2u; // of a group of 32
const GRANULES_T = 4u; // of four values in a load
fn values_T(word: u32, quad: u32) -> vec4f { return vec4f(bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u)); }
