// Components f16 of subgroup matrices, of pixels and weights that were stored in f16.
enable f16;
alias Component_T = f16;
alias Unit_T = vec2u; // four components
const PAD_T = 2u; // units between lines of a tile, for the banks of the memory: 16 bytes
const FOUR_T = 2u; // units of four sums
fn unit_T(v: vec4f) -> Unit_T { return pack_x(v); }
fn sums_T(low: Unit_T, high: Unit_T) -> vec4f { return bitcast<vec4f>(vec4u(low, high)); }
