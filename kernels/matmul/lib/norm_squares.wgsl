// The part of an invocation of the sum of squares of a row of A, which begins at granule `first`; its turn comes every `lanes` granules.
// The same terms in the same order as in norm.wgsl.
fn square_sum(first: u32, lane: u32, lanes: u32) -> f32 {
  let end = params.size.z / 4u;
  var squares = vec4f();
  for (var i = lane; i < end; i += lanes) {
    let v = unpack_a(a[first + i]);
    squares += v * v;
  }
  return (squares.x + squares.y) + (squares.z + squares.w);
}
