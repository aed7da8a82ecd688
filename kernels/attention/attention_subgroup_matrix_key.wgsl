// Gradients of k and v, as in attention_naive_key.wgsl, on subgroup matrices as in attention_subgroup_matrix.wgsl with keys as rows and queries as
// columns, over all query heads of the group. Probabilities and the gradients of the scores are rounded to the components' type.
// Grid: flat over key heads · ceil(keys / ROWS) · slices workgroups, folded; a slice has PART elements of both results.
enable subgroups;
enable chromium_experimental_subgroup_matrix;
//#use grid
//#use attention_key
//#use attention_range
//#use attention_matrix_f32 as c
//#use attention_matrix
//#use attention_matrix_gradient

// Whether key j is seen by the four queries `query` with the ids `id`.
fn seen_by(b: u32, j: u32, query: vec4u, id: vec4u, begin: u32) -> vec4<bool> {
  let end = vec4u(end_key(query.x), end_key(query.y), end_key(query.z), end_key(query.w));
  let yes = (query < vec4u(params.queries)) & (vec4u(j) < end) & (vec4u(j) >= vec4u(begin));
  if (!masked_by(DOCUMENTS)) { return yes; }
  return yes & (id == vec4u(document(b, min(j, params.keys - 1u))));
}

//#use size_any as z
@compute @workgroup_size(WORKGROUP)
fn attention_subgroup_matrix_key(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) within: u32) {
  let task = flat_group(group, groups);
  if (task >= params.rows) { return; }
  let count = (params.keys + ROWS - 1u) / ROWS;
  let slice_at = task % params.slices * PART;
  let j0 = ROWS * alternate((task / params.slices) % count, count);
  let b = task / (params.slices * count * params.heads);
  let h = (task / (params.slices * count)) % params.heads;
  let at_key = vec3u(1u, b, h);
  let last_query = params.queries - 1u;
  let ids = id_range(b, j0, ROWS, params.keys);
  let begin = first_key(b);
  // Keys before the first one that counts have no queries.
  let end = select(0u, params.queries, j0 + ROWS > begin);
  let first_i = first_query(j0);
  let k_head = dot(params.k.xyz, at_key);
  let v_head = dot(params.v.xyz, at_key);
  // The row of scores that this invocation shares with its neighbours in the subgroup.
  let line = subgroup * CM + within / SHARE;
  let own = j0 + line;
  let first = line * STEP_SCORES;
  let part = within % SHARE;
  var held_k: Held;
  var held_v: Held;
  for (var piece = 0u; piece < PIECES; piece++) {
    let one = fetch_k(k_head, j0 + piece * COLUMNS, lane);
    let two = fetch_v(v_head, j0 + piece * COLUMNS, lane);
    place(one, select(AT_ROWS + piece * SECOND, 0u, HOLD), lane);
    place(two, select(AT_ROWS + OWN + piece * SECOND, SECOND, HOLD), lane);
    if (HOLD) {
      workgroupBarrier();
      hold(&held_k, piece, 0u, subgroup);
      hold(&held_v, piece, SECOND, subgroup);
      workgroupBarrier();
    }
  }
  var sums_k: Results;
  var sums_v: Results;
  for (var e = 0u; e < params.group; e++) {
    let at = vec3u(1u, b, h * params.group + e);
    let q_head = dot(params.q.xyz, at);
    let g_head = dot(params.g.xyz, at);
    let stats_head = dot(params.stats.xyz, at);
    var i0 = next_tile(b, first_i - first_i % COLUMNS, end, ids);
    var next_q = fetch_q(q_head, i0, lane);
    var next_g = fetch_g(g_head, i0, lane);
    while (i0 < end) {
      place(next_q, 0u, lane);
      place(next_g, SECOND, lane);
      workgroupBarrier();
      let next = next_tile(b, i0 + COLUMNS, end, ids);
      next_q = fetch_q(q_head, next, lane);
      score(&held_k, AT_ROWS, 0u, 0u, subgroup);
      score(&held_v, AT_ROWS + OWN, SECOND, SECOND_SCORES, subgroup);
      next_g = fetch_g(g_head, next, lane); // not before: registers
      workgroupBarrier();
      var p: array<vec4f, QUADS>;
      var s: array<vec4f, QUADS>;
      for (var r = 0u; r < QUADS; r++) { //#unroll
        let quad = quad_of(r, part);
        let query = i0 + 4u * quad + vec4u(0u, 1u, 2u, 3u);
        let stat_at = stats_head + min(query, vec4u(last_query)) * params.stats.w;
        let lse = vec4f(stats[stat_at.x], stats[stat_at.y], stats[stat_at.z], stats[stat_at.w]);
        let delta = vec4f(stats[stat_at.x + 1u], stats[stat_at.y + 1u], stats[stat_at.z + 1u], stats[stat_at.w + 1u]);
        let seen = seen_by(b, own, query, documents(b, min(query, vec4u(last_query))), begin);
        p[r] = select(vec4f(), powers_of(sums_c(scores[first + quad]) * params.scale, lse), seen);
        s[r] = p[r] * (sums_c(scores[SECOND_SCORES + first + quad]) - delta);
      }
      put_weights(line * STEP_WEIGHTS, part, p);
      put_weights(SECOND_WEIGHTS + line * STEP_WEIGHTS, part, s);
      workgroupBarrier();
      weigh(&sums_v, 0u, SECOND + slice_at / PER_c, subgroup);
      weigh(&sums_k, SECOND_WEIGHTS, slice_at / PER_c, subgroup);
      workgroupBarrier();
      i0 = next;
    }
  }
  let dk_row = dot(params.dk.xyz, at_key) + own * params.dk.w + slice_at / 4u;
  let dv_row = dot(params.dv.xyz, at_key) + own * params.dv.w + slice_at / 4u;
  for (var start = 0u; start < PART / CN; start += COLUMNS / CN) {
    show(&sums_k, start, subgroup);
    workgroupBarrier();
    for (var r = 0u; r < QUADS; r++) { //#unroll
      let quad = quad_of(r, part);
      let granule = start * CN / 4u + quad;
      if (own < params.keys && granule < PART / 4u) { dk[dk_row + granule] = pack_k(sums_c(scores[first + quad]) * params.slope); }
    }
    workgroupBarrier();
    show(&sums_v, start, subgroup);
    workgroupBarrier();
    for (var r = 0u; r < QUADS; r++) { //#unroll
      let quad = quad_of(r, part);
      let granule = start * CN / 4u + quad;
      if (own < params.keys && granule < PART / 4u) { dv[dv_row + granule] = pack_k(sums_c(scores[first + quad])); }
    }
    workgroupBarrier();
  }
}
