// a^b as IEEE 754 and PyTorch have it, WGSL's own pow being for a > 0 alone: whole powers of negative numbers, zeros, infinities, NaN.
//#use finite
fn power4(a: vec4f, b: vec4f) -> vec4f {
  let size = abs(a);
  let largest = vec4f(3.4028234e38);
  let is_zero = size == vec4f();
  let is_infinite = size > largest;
  let is_whole = trunc(b) == b;
  let half = 0.5 * b;
  let is_odd = is_whole & (trunc(half) != half) & (abs(b) < vec4f(16777216.0));
  // If the exponent is infinite, what is larger than 1 grows with it.
  let is_far = (abs(b) > largest) & !is_zero & !is_infinite & (size != vec4f(1.0));
  let rises = b > vec4f();
  let falls = b < vec4f();
  let grows = (is_zero & falls) | (is_infinite & rises) | (is_far & ((size > vec4f(1.0)) == rises));
  let vanishes = (is_zero & rises) | (is_infinite & falls) | (is_far & ((size > vec4f(1.0)) != rises));
  var r = select(select(pow(size, b), infinity_of4(size), grows), vec4f(), vanishes);
  let is_negative = bitcast<vec4i>(a) < vec4i();
  r = select(r, -r, is_negative & is_odd);
  r = select(r, nan_of4(a), (is_negative & !is_whole & !is_zero & !is_infinite) | is_nan4(a) | is_nan4(b));
  return select(r, vec4f(1.0), (b == vec4f()) | (a == vec4f(1.0)) | ((size == vec4f(1.0)) & (abs(b) > largest) & !is_nan4(a)));
}
