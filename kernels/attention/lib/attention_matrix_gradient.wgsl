// What the gradient kernels on subgroup matrices add to attention_matrix: rows of g, which has q's dtype.
fn stage_g(to: u32, head: u32, first: u32, count: u32, lane: u32) {
  for (var i = lane; i < count * DEPTH / PER_c; i += WORKGROUP) {
    let row = first + i / (DEPTH / PER_c);
    let at = head + min(row, params.queries - 1u) * params.g.w + i % (DEPTH / PER_c) * PAIR;
    block[to + i / (DEPTH / PER_c) * STEP + i % (DEPTH / PER_c)] = select(Unit_c(), query_c(g[at], g[at + PAIR - 1u]), row < params.queries);
  }
}
