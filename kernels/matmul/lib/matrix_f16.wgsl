// Operands f16 as components of subgroup matrices: their bits pass through workgroup memory as they are.
enable f16;
alias Component_T = f16;
alias Unit_T = vec2u; // four components
const PAD_T = 2u; // units between lines of a tile, for the banks of the memory: 16 bytes
const FOUR_T = 2u; // units of four sums
fn left_T(p: Pack_a) -> Unit_T { return p; }
fn right_T(p: Pack_b) -> Unit_T { return p; }
fn sums_T(low: Unit_T, high: Unit_T) -> vec4f { return bitcast<vec4f>(vec4u(low, high)); }
// A block of four lines transposed.
fn turned_T(a: Unit_T, b: Unit_T, c: Unit_T, d: Unit_T) -> array<Unit_T, 4> {
  let low = vec2u(0xffffu);
  let high = vec2u(0xffff0000u);
  let ab_even = (a & low) | (b << vec2u(16u));
  let cd_even = (c & low) | (d << vec2u(16u));
  let ab_odd = (a >> vec2u(16u)) | (b & high);
  let cd_odd = (c >> vec2u(16u)) | (d & high);
  return array<Unit_T, 4>(vec2u(ab_even.x, cd_even.x), vec2u(ab_odd.x, cd_odd.x), vec2u(ab_even.y, cd_even.y), vec2u(ab_odd.y, cd_odd.y));
}
