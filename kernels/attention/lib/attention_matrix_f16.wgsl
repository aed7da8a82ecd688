// Components f16 of subgroup matrices: the bits of q and k pass through workgroup memory as they are; probabilities are rounded to f16.
enable f16;
alias Component_T = f16;
alias Unit_T = vec4u; // PER components. 16 bytes: matrices in workgroup memory must begin at multiples of that
const PER_T = 8u;
fn query_T(low: Pack_q, high: Pack_q) -> Unit_T { return vec4u(low, high); }
fn key_T(low: Pack_k, high: Pack_k) -> Unit_T { return vec4u(low, high); }
fn unit_T(low: vec4f, high: vec4f) -> Unit_T { return vec4u(pack_k(low), pack_k(high)); }
// Four sums in a unit, and back.
fn sums_T(u: Unit_T) -> vec4f { return bitcast<vec4f>(u); }
fn four_T(v: vec4f) -> Unit_T { return bitcast<vec4u>(v); }
