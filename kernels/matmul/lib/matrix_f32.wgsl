// Operands of any dtype as f32 components of subgroup matrices.
alias Component_T = f32;
alias Unit_T = vec4f; // four components
const PAD_T = 1u; // units between lines of a tile, for the banks of the memory: 16 bytes
const FOUR_T = 1u; // units of four sums
fn left_T(p: Pack_a) -> Unit_T { return unpack_a(p); }
fn right_T(p: Pack_b) -> Unit_T { return unpack_b(p); }
fn sums_T(low: Unit_T, high: Unit_T) -> vec4f { return low; }
