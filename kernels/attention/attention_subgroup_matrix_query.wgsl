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
fn attention_subgroup_matrix_query(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32) {
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
  // The row of scores that this invocation shares, and its first granule there.
  let own = i0 + lane / SHARE;
  let first = lane / SHARE * STEP_SCORES;
  let part = lane % SHARE;
  let stat_at = dot(params.stats.xyz, at) + min(own, params.queries - 1u) * params.stats.w;
  let lse = vec4f(stats[stat_at]);
  let delta = stats[stat_at + 1u];
  stage_q(0u, q_head, i0, ROWS, lane);
  stage_g(OWN, g_head, i0, ROWS, lane);
  var sums: Results;
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    stage_k(AT_BLOCK, k_head, j0, COLUMNS, lane);
    stage_v(AT_BLOCK + BLOCK, v_head, j0, COLUMNS, lane);
    workgroupBarrier();
    score(0u, AT_BLOCK, subgroup);
    workgroupBarrier();
    var s: array<vec4f, QUADS>;
    for (var e = 0u; e < QUADS; e++) { //#unroll
      let quad = quad_of(e, part);
      let key = j0 + 4u * quad + vec4u(0u, 1u, 2u, 3u);
      let seen = sees(b, own, key, documents(b, min(key, vec4u(last_key))), begin);
      s[e] = select(vec4f(), powers_of(sums_c(scores[first + quad]) * params.scale, lse), seen);
    }
    workgroupBarrier();
    score(OWN, AT_BLOCK + BLOCK, subgroup);
    workgroupBarrier();
    for (var e = 0u; e < QUADS; e++) { //#unroll
      let quad = quad_of(e, part);
      let key = j0 + 4u * quad + vec4u(0u, 1u, 2u, 3u);
      let seen = sees(b, own, key, documents(b, min(key, vec4u(last_key))), begin);
      s[e] = select(vec4f(), s[e] * (sums_c(scores[first + quad]) - delta), seen);
    }
    workgroupBarrier();
    for (var e = 0u; e < QUADS / PAIR; e++) { //#unroll
      scores[first + e * SHARE + part] = unit_c(s[PAIR * e], s[PAIR * e + PAIR - 1u]);
    }
    workgroupBarrier();
    weigh(&sums, AT_BLOCK, subgroup);
    workgroupBarrier();
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
