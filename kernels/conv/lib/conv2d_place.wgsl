// Offset of a pixel of X, which is x with up - 1 zeros between its pixels and zeros around it. Needs the library conv2d_forward.
const DILATED = false; // up may be more than 1
// Element of X at row v and column u within a channel, or -1 if it is zero.
fn place(v: i32, u: i32) -> i32 {
  var at = vec2i(v, u);
  var inside = v >= 0 && u >= 0;
  if (DILATED) {
    at = at / params.up;
    inside = inside && all(at * params.up == vec2i(v, u));
  }
  inside = inside && at.x < i32(params.height) && at.y < i32(params.width);
  return select(-1, at.x * i32(params.width) + at.y, inside);
}
