// Operands f16 as components of subgroup matrices: their bits pass through workgroup memory as they are.
enable f16;
alias Component_T = f16;
alias Unit_T = vec2u; // four components
const PAD_T = 2u; // units between lines of a tile, for the banks of the memory: 16 bytes
const FOUR_T = 2u; // units of four sums
fn left_T(p: Pack_a) -> Unit_T { return p; }
fn right_T(p: Pack_b) -> Unit_T { return p; }
fn sums_T(low: Unit_T, high: Unit_T) -> vec4f { return bitcast<vec4f>(vec4u(low, high)); }
