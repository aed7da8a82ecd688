// Offset of a pixel of X, which is x with UP - 1 zeros between its pixels and zeros around it. Needs the library conv2d_forward.
const UP = 1u; // the stride whose gradient this is; a constant, since compilers multiply instead of dividing by one
// Element of X at row v and column u within a channel, or -1 if it is zero.
fn place(v: i32, u: i32) -> i32 {
  var at = vec2i(v, u);
  var inside = v >= 0 && u >= 0;
  if (UP > 1u) {
    let whole = vec2u(at) / UP;
    inside = inside && all(whole * UP == vec2u(at));
    at = vec2i(whole);
  }
  inside = inside && at.x < i32(params.height) && at.y < i32(params.width);
  return select(-1, at.x * i32(params.width) + at.y, inside);
}
