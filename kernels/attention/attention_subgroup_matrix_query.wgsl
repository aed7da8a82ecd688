// Gradient of q, as in attention_naive_query.wgsl, on subgroup matrices as in attention_subgroup_matrix.wgsl. The gradients of the scores are rounded to
// the components' type. Grid: flat over heads · ceil(queries / ROWS) workgroups, folded.
enable subgroups;
enable chromium_experimental_subgroup_matrix;
//#use grid
//#use attention_query
//#use attention_range
//#use attention_matrix_f32 as c
//#use attention_matrix
//#use attention_matrix_gradient

//#use size_any as z
@compute @workgroup_size(WORKGROUP)
fn attention_subgroup_matrix_query(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) within: u32) {
  let task = flat_group(group, groups);
  if (task >= params.rows) { return; }
  let count = (params.queries + ROWS - 1u) / ROWS;
  let i0 = ROWS * alternate(task % count, count);
  let b = task / (count * params.heads);
  let h = (task / count) % params.heads;
  let at = vec3u(1u, b, h);
  let at_key = vec3u(1u, b, h / params.group);
  let last_key = params.keys - 1u;
  let ids = id_range(b, i0, ROWS, params.queries);
  let begin = first_key(b);
  let end = end_key(min(i0 + ROWS - 1u, params.queries - 1u));
  let q_head = dot(params.q.xyz, at);
  let g_head = dot(params.g.xyz, at);
  let k_head = dot(params.k.xyz, at_key);
  let v_head = dot(params.v.xyz, at_key);
  // The row of scores that this invocation shares with its neighbours in the subgroup.
  let line = subgroup * CM + within / SHARE;
  let own = i0 + line;
  let first = line * STEP_SCORES;
  let part = within % SHARE;
  let stat_at = dot(params.stats.xyz, at) + min(own, params.queries - 1u) * params.stats.w;
  let lse = vec4f(stats[stat_at]);
  let delta = stats[stat_at + 1u];
  var held_q: Held;
  var held_g: Held;
  for (var piece = 0u; piece < PIECES; piece++) {
    let one = fetch_q(q_head, i0 + piece * COLUMNS, lane);
    let two = fetch_g(g_head, i0 + piece * COLUMNS, lane);
    place(one, select(AT_ROWS + piece * SECOND, 0u, HOLD), lane);
    place(two, select(AT_ROWS + OWN + piece * SECOND, SECOND, HOLD), lane);
    if (HOLD) {
      workgroupBarrier();
      hold(&held_q, piece, 0u, subgroup);
      hold(&held_g, piece, SECOND, subgroup);
      workgroupBarrier();
    }
  }
  var sums: Results;
  var j0 = next_tile(b, begin - begin % COLUMNS, end, ids);
  var next_k = fetch_k(k_head, j0, lane);
  var next_v = fetch_v(v_head, j0, lane);
  while (j0 < end) {
    place(next_k, 0u, lane);
    place(next_v, SECOND, lane);
    workgroupBarrier();
    let next = next_tile(b, j0 + COLUMNS, end, ids);
    next_k = fetch_k(k_head, next, lane);
    score(&held_q, AT_ROWS, 0u, 0u, subgroup);
    score(&held_g, AT_ROWS + OWN, SECOND, SECOND_SCORES, subgroup);
    next_v = fetch_v(v_head, next, lane); // not before: registers
    workgroupBarrier();
    var s: array<vec4f, QUADS>;
    for (var e = 0u; e < QUADS; e++) { //#unroll
      let quad = quad_of(e, part);
      let key = j0 + 4u * quad + vec4u(0u, 1u, 2u, 3u);
      let seen = sees(b, own, key, documents(b, min(key, vec4u(last_key))), begin);
      let p = select(vec4f(), powers_of(sums_c(scores[first + quad]) * params.scale, lse), seen);
      s[e] = select(vec4f(), p * (sums_c(scores[SECOND_SCORES + first + quad]) - delta), seen);
    }
    put_weights(line * STEP_WEIGHTS, part, s);
    workgroupBarrier();
    weigh(&sums, 0u, 0u, subgroup);
    workgroupBarrier();
    j0 = next;
  }
  let dq_row = dot(params.dq.xyz, at) + own * params.dq.w;
  for (var start = 0u; start < PART / CN; start += COLUMNS / CN) {
    show(&sums, start, subgroup);
    workgroupBarrier();
    for (var e = 0u; e < QUADS; e++) { //#unroll
      let quad = quad_of(e, part);
      let granule = start * CN / 4u + quad;
      if (own < params.queries && granule < PART / 4u) { dq[dq_row + granule] = pack_q(sums_c(scores[first + quad]) * params.slope); }
    }
    workgroupBarrier();
  }
}
