// What the gradient kernels on subgroup matrices add to attention_matrix: rows of g, which has q's dtype.
fn stage_g(to: u32, head: u32, first: u32, lane: u32) {
  for (var e = 0u; e < COLUMNS * DEPTH / 4u / WORKGROUP; e++) {
    let i = e * WORKGROUP + lane;
    let row = first + i / (DEPTH / 4u);
    let x = query_c(g[head + min(row, params.queries - 1u) * params.g.w + i % (DEPTH / 4u)]);
    block[to + i / (DEPTH / 4u) * STEP + i % (DEPTH / 4u)] = select(Unit_c(), x, row < params.queries);
  }
}
