// What the gradient kernels add to attention_block: rows of g.
fn granule_g(head: u32, t: u32, last: u32, c: u32) -> vec4f {
  let x = unpack_g(g[head + min(t, last) * params.g.w + min(c, params.granules - 1u)]);
  return select(vec4f(), x, c < params.granules && t <= last);
}
