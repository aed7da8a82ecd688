// What the gradient kernels on subgroup matrices add to attention_matrix: rows of g, which has q's dtype.
fn fetch_g(head: u32, first: u32, lane: u32) -> Fetched {
  var units: Fetched;
  for (var e = 0u; e < EACH; e++) { //#unroll
    let row = first + (e * WORKGROUP + lane) / LINE;
    let at = head + min(row, params.queries - 1u) * params.g.w + (e * WORKGROUP + lane) % LINE * PAIR;
    units[e] = select(Unit_c(), query_c(g[at], g[at + PAIR - 1u]), row < params.queries);
  }
  return units;
}
