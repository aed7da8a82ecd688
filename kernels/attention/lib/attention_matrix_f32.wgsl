// Components f32 of subgroup matrices, from operands of any dtype.
alias Component_T = f32;
alias Unit_T = vec4f; // PER components. 16 bytes: matrices in workgroup memory must begin at multiples of that
const PER_T = 4u;
fn query_T(low: Pack_q, high: Pack_q) -> Unit_T { return unpack_q(low); }
fn key_T(low: Pack_k, high: Pack_k) -> Unit_T { return unpack_k(low); }
fn unit_T(low: vec4f, high: vec4f) -> Unit_T { return low; }
// Four sums in a unit, and back.
fn sums_T(u: Unit_T) -> vec4f { return u; }
fn four_T(v: vec4f) -> Unit_T { return v; }
