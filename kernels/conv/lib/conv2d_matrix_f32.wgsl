// Components f32 of subgroup matrices, from pixels and weights of any dtype.
alias Component_T = f32;
alias Unit_T = vec4f; // four components
const PAD_T = 1u; // units between lines of a tile, for the banks of the memory: 16 bytes
const FOUR_T = 1u; // units of four sums
fn unit_T(v: vec4f) -> Unit_T { return v; }
fn sums_T(low: Unit_T, high: Unit_T) -> vec4f { return low; }
