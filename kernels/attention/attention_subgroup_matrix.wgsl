// The sums of attention_naive.wgsl on subgroup matrices (tensor cores). Elements of subgroup matrices are reached through memory alone, so the sums of
// values are not rescaled for each new maximum of a row as in the other kernels, but only once it has grown by 2^SLACK; powers of up to 2^SLACK are
// exact enough in f16. Grid: flat over heads · ceil(queries / ROWS) workgroups, folded; light and heavy tiles of a causal head alternate.
enable subgroups;
enable chromium_experimental_subgroup_matrix;
//#use grid
//#use attention_forward
//#use attention_range
//#use attention_matrix_f32 as c
//#use attention_matrix
const SLACK = 8.0; // powers of 2 by which a maximum may be outgrown

var<workgroup> grown: atomic<u32>; // the last round in which a row outgrew its maximum

//#use size_any as z
@compute @workgroup_size(WORKGROUP)
fn attention_subgroup_matrix(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) within: u32) {
  let task = flat_group(group, groups);
  if (task >= params.rows) { return; }
  let count = (params.queries + ROWS - 1u) / ROWS;
  let i0 = ROWS * alternate(task % count, count);
  let b = task / (count * params.heads);
  let h = (task / count) % params.heads;
  let at = vec3u(1u, b, h);
  let at_key = vec3u(1u, b, h / params.group);
  let ids = id_range(b, i0, ROWS, params.queries);
  let begin = first_key(b);
  let end = end_key(min(i0 + ROWS - 1u, params.queries - 1u));
  let q_head = dot(params.q.xyz, at);
  let k_head = dot(params.k.xyz, at_key);
  let v_head = dot(params.v.xyz, at_key);
  // The row of scores that this invocation shares with its neighbours in the subgroup.
  let line = subgroup * CM + within / SHARE;
  let own = i0 + line;
  let first = line * STEP_SCORES;
  let part = within % SHARE;
  var held: Held;
  for (var piece = 0u; piece < PIECES; piece++) {
    place(fetch_q(q_head, i0 + piece * COLUMNS, lane), select(AT_ROWS + piece * SECOND, 0u, HOLD), lane);
    if (HOLD) {
      workgroupBarrier();
      hold(&held, piece, 0u, subgroup);
      workgroupBarrier();
    }
  }
  var j0 = next_tile(b, begin - begin % COLUMNS, end, ids);
  place(fetch_k(k_head, j0, lane), 0u, lane);
  place(fetch_v(v_head, j0, lane), SECOND, lane);
  workgroupBarrier();
  var sums: Results;
  var top = -3e38; // what powers of the row are relative to
  var total = 0.0; // this invocation's share of the sum of powers
  var round = 0u;
  // The next tile is fetched while this one is multiplied, and placed as soon as this one is done with.
  while (j0 < end) {
    round++;
    let next = next_tile(b, j0 + COLUMNS, end, ids);
    let next_k = fetch_k(k_head, next, lane);
    score(&held, AT_ROWS, 0u, 0u, subgroup);
    workgroupBarrier();
    let next_v = fetch_v(v_head, next, lane);
    var s: array<vec4f, QUADS>;
    var high = top;
    for (var e = 0u; e < QUADS; e++) { //#unroll
      let quad = quad_of(e, part);
      let key = j0 + 4u * quad + vec4u(0u, 1u, 2u, 3u);
      let seen = sees(b, own, key, documents(b, min(key, vec4u(params.keys - 1u))), begin);
      s[e] = select(vec4f(-3e38), sums_c(scores[first + quad]) * params.scale, seen);
      high = max(high, hmax4(s[e]));
    }
    for (var mask = 1u; mask < SHARE; mask *= 2u) { high = max(high, subgroupShuffleXor(high, mask)); }
    let outgrown = high > top + SLACK;
    atomicMax(&grown, select(0u, round, outgrown));
    let shrink = select(1.0, exp2(max(top - high, -126.0)), outgrown);
    top = select(top, high, outgrown);
    total *= shrink;
    for (var e = 0u; e < QUADS; e++) { //#unroll
      s[e] = powers(s[e], top);
      total += (s[e].x + s[e].y) + (s[e].z + s[e].w);
    }
    put_weights(line * STEP_WEIGHTS, part, s);
    place(next_k, 0u, lane);
    if (workgroupUniformLoad(&grown) == round) {
      for (var start = 0u; start < PART / CN; start += COLUMNS / CN) {
        show(&sums, start, subgroup);
        workgroupBarrier();
        for (var e = 0u; e < QUADS; e++) { //#unroll
          let quad = first + quad_of(e, part);
          scores[quad] = four_c(sums_c(scores[quad]) * shrink);
        }
        workgroupBarrier();
        take(&sums, start, subgroup);
        workgroupBarrier();
      }
    }
    weigh(&sums, 0u, SECOND, subgroup);
    workgroupBarrier();
    place(next_v, SECOND, lane);
    j0 = next;
  }
  for (var mask = 1u; mask < SHARE; mask *= 2u) { total += subgroupShuffleXor(total, mask); }
  let share = share_of(total, begin, own);
  if (part == 0u && own < params.queries) { lse[dot(params.lse, vec4u(at, own))] = log_sum(top, total, begin, own); }
  let o_row = dot(params.o.xyz, at) + own * params.o.w;
  for (var start = 0u; start < PART / CN; start += COLUMNS / CN) {
    show(&sums, start, subgroup);
    workgroupBarrier();
    for (var e = 0u; e < QUADS; e++) { //#unroll
      let quad = quad_of(e, part);
      let granule = start * CN / 4u + quad;
      if (own < params.queries && granule < PART / 4u) { o[o_row + granule] = pack_o(sums_c(scores[first + quad]) * share); }
    }
    workgroupBarrier();
  }
}
