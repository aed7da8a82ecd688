// Components f32 of subgroup matrices, from pixels and weights of any dtype.
alias Component_T = f32;
alias Unit_T = vec4f; // PER components. 16 bytes: matrices in workgroup memory must begin at multiples of that
const PER_T = 4u;
// Stores four components of the tile, the at-th.
fn put_T(at: u32, v: vec4f) { tile[at] = v; }
fn sums_T(u: Unit_T) -> vec4f { return u; }
