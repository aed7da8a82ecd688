// Operands f16 as components of subgroup matrices: their bits pass through workgroup memory as they are.
enable f16;
alias Component_T = f16;
alias Four_T = vec2u; // four components
alias Unit_T = vec4u; // PER components. 16 bytes: matrices in workgroup memory must begin at multiples of that
const PER_T = 8u;
fn left_T(p: Pack_a) -> Four_T { return p; }
fn right_T(p: Pack_b) -> Four_T { return p; }
fn unit_T(low: Four_T, high: Four_T) -> Unit_T { return vec4u(low, high); }
fn sums_T(u: Unit_T) -> vec4f { return bitcast<vec4f>(u); }
// Stores four components of the tile, the at-th.
fn put_T(at: u32, four: Four_T) {
  tile[at / 2u][at % 2u * 2u] = four.x;
  tile[at / 2u][at % 2u * 2u + 1u] = four.y;
}
// A block of four lines transposed.
fn turned_T(a: Four_T, b: Four_T, c: Four_T, d: Four_T) -> array<Four_T, 4> {
  let low = vec2u(0xffffu);
  let high = vec2u(0xffff0000u);
  let ab_even = (a & low) | (b << vec2u(16u));
  let cd_even = (c & low) | (d << vec2u(16u));
  let ab_odd = (a >> vec2u(16u)) | (b & high);
  let cd_odd = (c >> vec2u(16u)) | (d & high);
  return array<Four_T, 4>(vec2u(ab_even.x, cd_even.x), vec2u(ab_odd.x, cd_odd.x), vec2u(ab_even.y, cd_even.y), vec2u(ab_odd.y, cd_odd.y));
}
