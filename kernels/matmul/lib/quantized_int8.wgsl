// Quantised weights of 8 bits, two's complement, the first in the lowest byte of a word. A load is vec4u.
const VALUES_T = 4u; // in a word
const LOADS_T = 2u; // of a group of 32
const GRANULES_T = 4u; // of four values in a load
fn values_T(word: u32, quad: u32) -> vec4f { return vec4f(bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u)); }
// The same values times 1, 256, 1 and 256, in fewer operations: masked in place, they are the lowest bits of the fraction of a float of 2²³ and more.
const POWERS_T = vec4f(1, 256, 1, 256);
fn raised_T(word: u32, quad: u32) -> vec4f {
  let low = word ^ 0x80808080u; // value + 128
  let high = low >> 16u;
  let bits = (vec4u(low, low, high, high) & vec4u(0xffu, 0xff00u, 0xffu, 0xff00u)) | vec4u(0x4b000000u);
  return bitcast<vec4f>(bits) - (vec4f(8388608) + 128 * POWERS_T);
}
