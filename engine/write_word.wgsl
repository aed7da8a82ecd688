// Replaces some bytes of one 32-bit word: bits of x[word] stay if mask is 0, and become those of value if it is 1. One invocation.
struct Params {
  word: u32, // in the binding
  mask: u32, // bits to replace
  value: u32, // bits outside the mask are 0
}
@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(1)
fn write_word() {
  x[params.word] = (x[params.word] & ~params.mask) | params.value;
}
