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

var<workgroup> shares: array<f32, WORKGROUP>;
var<workgroup> grown: atomic<u32>; // the last round in which a row outgrew its maximum

//#use size_any as z
@compute @workgroup_size(WORKGROUP)
fn attention_subgroup_matrix(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32) {
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
  // The row of scores that this invocation shares, and its first granule there.
  let own = i0 + lane / SHARE;
  let first = lane / SHARE * STEP_SCORES;
  let part = lane % SHARE;
  stage_q(0u, q_head, i0, ROWS, lane);
  var held: Held;
  if (HOLD) {
    workgroupBarrier();
    for (var c = 0u; c < DEPTH / CK; c++) { //#unroll
      held[c] = rows_at(0u, c, subgroup);
    }
    workgroupBarrier();
  }
  var sums: Results;
  var top = -3e38; // what powers of the row are relative to
  var total = 0.0; // this invocation's share of the sum of powers
  var round = 0u;
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    round++;
    stage_k(AT_BLOCK, k_head, j0, COLUMNS, lane);
    workgroupBarrier();
    if (HOLD) { score_held(&held, AT_BLOCK, subgroup); } else { score(0u, AT_BLOCK, subgroup); }
    workgroupBarrier();
    stage_v(AT_BLOCK, v_head, j0, COLUMNS, lane);
    var s: array<vec4f, QUADS>;
    var high = top;
    for (var e = 0u; e < QUADS; e++) { //#unroll
      let quad = quad_of(e, part);
      let key = j0 + 4u * quad + vec4u(0u, 1u, 2u, 3u);
      let seen = sees(b, own, key, documents(b, min(key, vec4u(params.keys - 1u))), begin);
      s[e] = select(vec4f(-3e38), sums_c(scores[first + quad]) * params.scale, seen);
      high = max(high, hmax4(s[e]));
    }
    shares[lane] = high;
    workgroupBarrier();
    for (var e = 0u; e < SHARE; e++) { high = max(high, shares[lane / SHARE * SHARE + e]); }
    let next = select(top, high, high > top + SLACK);
    let shrink = exp2(max(top - next, -126.0));
    atomicMax(&grown, select(0u, round, next != top));
    top = next;
    total *= shrink;
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
    for (var e = 0u; e < QUADS; e++) { //#unroll
      s[e] = powers(s[e], top);
      total += (s[e].x + s[e].y) + (s[e].z + s[e].w);
    }
    for (var e = 0u; e < QUADS / PAIR; e++) { //#unroll
      scores[first + e * SHARE + part] = unit_c(s[PAIR * e], s[PAIR * e + PAIR - 1u]);
    }
    workgroupBarrier();
    weigh(&sums, AT_BLOCK, subgroup);
    workgroupBarrier();
  }
  shares[lane] = total;
  workgroupBarrier();
  total = 0.0;
  for (var e = 0u; e < SHARE; e++) { total += shares[lane / SHARE * SHARE + e]; }
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
