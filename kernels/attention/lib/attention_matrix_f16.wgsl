// Components f16 of subgroup matrices: the bits of q and k pass through workgroup memory as they are; probabilities are rounded to f16.
enable f16;
alias Component_T = f16;
alias Unit_T = vec2u; // four components
const PAD_T = 2u; // units between lines of a tile, for the banks of the memory: 16 bytes
const FOUR_T = 2u; // units of four sums
fn query_T(p: Pack_q) -> Unit_T { return p; }
fn key_T(p: Pack_k) -> Unit_T { return p; }
fn unit_T(v: vec4f) -> Unit_T { return pack_k(v); }
fn sums_T(low: Unit_T, high: Unit_T) -> vec4f { return bitcast<vec4f>(vec4u(low, high)); }
fn low_T(v: vec4f) -> Unit_T { return bitcast<vec4u>(v).xy; }
fn high_T(v: vec4f) -> Unit_T { return bitcast<vec4u>(v).zw; }
