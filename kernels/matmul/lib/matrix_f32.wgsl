// Operands of any dtype as f32 components of subgroup matrices.
alias Component_T = f32;
alias Four_T = vec4f; // four components
alias Unit_T = vec4f; // PER components. 16 bytes: matrices in workgroup memory must begin at multiples of that
const PER_T = 4u;
fn left_T(p: Pack_a) -> Four_T { return unpack_a(p); }
fn right_T(p: Pack_b) -> Four_T { return unpack_b(p); }
fn unit_T(low: Four_T, high: Four_T) -> Unit_T { return low; }
fn sums_T(u: Unit_T) -> vec4f { return u; }
// Stores four components of the tile, the at-th.
fn put_T(at: u32, four: Four_T) { tile[at] = four; }
// A block of four lines transposed.
fn turned_T(a: Four_T, b: Four_T, c: Four_T, d: Four_T) -> array<Four_T, 4> {
  let turned = transpose(mat4x4f(a, b, c, d));
  return array<Four_T, 4>(turned[0], turned[1], turned[2], turned[3]);
}
