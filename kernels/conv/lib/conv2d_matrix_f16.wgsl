// Components f16 of subgroup matrices, of pixels and weights that were stored in f16.
enable f16;
alias Component_T = f16;
alias Unit_T = vec4u; // PER components. 16 bytes: matrices in workgroup memory must begin at multiples of that
const PER_T = 8u;
// Stores four components of the tile, the at-th.
fn put_T(at: u32, v: vec4f) {
  let four = pack_x(v);
  tile[at / 2u][at % 2u * 2u] = four.x;
  tile[at / 2u][at % 2u * 2u + 1u] = four.y;
}
fn sums_T(u: Unit_T) -> vec4f { return bitcast<vec4f>(u); }
