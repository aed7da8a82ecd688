// Operands of any dtype as f32 components of subgroup matrices.
alias Component_T = f32;
alias Unit_T = vec4f; // four components
const PAD_T = 1u; // units between lines of a tile, for the banks of the memory: 16 bytes
const FOUR_T = 1u; // units of four sums
fn left_T(p: Pack_a) -> Unit_T { return unpack_a(p); }
fn right_T(p: Pack_b) -> Unit_T { return unpack_b(p); }
fn sums_T(low: Unit_T, high: Unit_T) -> vec4f { return low; }
// A block of four lines transposed.
fn turned_T(a: Unit_T, b: Unit_T, c: Unit_T, d: Unit_T) -> array<Unit_T, 4> {
  let turned = transpose(mat4x4f(a, b, c, d));
  return array<Unit_T, 4>(turned[0], turned[1], turned[2], turned[3]);
}
