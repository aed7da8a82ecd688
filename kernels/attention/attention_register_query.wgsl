// Gradient of q, as in attention_naive_query.wgsl, in the tiles of attention_register.wgsl: 8 queries against 4 · LANES keys a step. The scores and
// the slopes g·v are computed as the scores of the forward are; their product with k as the forward's product with v.
// Grid: flat over ceil(heads · ceil(queries / 8) · slices · LANES / WORKGROUP), folded.
//#use grid
//#use attention_query
//#use attention_range
//#use attention_tile
//#use attention_lanes_none as s
const WORKGROUP = 64u; // invocations
const LANES = 1u; // that share a tile: 1, or the subgroup size, which is then WORKGROUP
const CHUNKS = 1u; // chunks of LANES granules that a tile computes: 1, 2 or 4

// The gradients of the scores of query i: p · (slope − delta), 0 if masked; `stat` is (lse, delta).
fn score_gradients(s: vec4f, slope: vec4f, stat: vec4f, b: u32, i: u32, key: vec4u, id: vec4u, begin: u32, row_id: u32) -> vec4f {
  var seen = (key >= vec4u(begin)) & (key < vec4u(end_key(i)));
  if (masked_by(DOCUMENTS)) { seen = seen & (id == vec4u(row_id)); }
  let p = powers_of(s * params.scale, vec4f(stat.x));
  return select(vec4f(), p * (slope - stat.y), seen);
}

fn stat_of(at: u32) -> vec4f { return vec4f(stats[at], stats[at + 1u], 0.0, 0.0); }

@compute @workgroup_size(WORKGROUP)
fn attention_register_query(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let lane = invocation % LANES;
  let task = tile_of_s(flat_group(group, groups), invocation);
  if (task >= params.rows) { return; }
  let count = (params.queries + ROWS - 1u) / ROWS;
  let slice = task % params.slices;
  let i0 = ROWS * alternate((task / params.slices) % count, count);
  let b = task / (params.slices * count * params.heads);
  let h = (task / (params.slices * count)) % params.heads;
  let at = vec3u(1u, b, h);
  let at_key = vec3u(1u, b, h / params.group);
  let last_query = params.queries - 1u;
  let last_key = params.keys - 1u;
  let k_head = dot(params.k.xyz, at_key);
  let v_head = dot(params.v.xyz, at_key);
  let ids = id_range(b, i0, ROWS, params.queries);
  let begin = first_key(b);
  let end = end_key(min(i0 + ROWS - 1u, last_query));
  // Granule of this lane in each chunk; those beyond the head repeat its last one.
  let own = vec4u(0u, LANES, 2u * LANES, 3u * LANES) + (slice * CHUNKS * LANES + lane);
  let column = min(own, vec4u(params.granules - 1u));
  var q_at: array<u32, 8>;
  rows_of(&q_at, dot(params.q.xyz, at), i0, last_query, params.q.w, lane);
  var held_ids: array<u32, 8>;
  ids_of_rows(&held_ids, b, i0, last_query, lane);
  var g_at: array<u32, 8>;
  rows_of(&g_at, dot(params.g.xyz, at), i0, last_query, params.g.w, lane);
  var stat: array<vec4f, 8>;
  stat[0] = stat_of(dot(params.stats.xyz, at) + min(i0 + (0u * LANES + lane) % ROWS, last_query) * params.stats.w);
  if (ROWS / LANES > 1u) { stat[1] = stat_of(dot(params.stats.xyz, at) + min(i0 + (1u * LANES + lane) % ROWS, last_query) * params.stats.w); }
  if (ROWS / LANES > 2u) { stat[2] = stat_of(dot(params.stats.xyz, at) + min(i0 + (2u * LANES + lane) % ROWS, last_query) * params.stats.w); }
  if (ROWS / LANES > 3u) { stat[3] = stat_of(dot(params.stats.xyz, at) + min(i0 + (3u * LANES + lane) % ROWS, last_query) * params.stats.w); }
  if (ROWS / LANES > 4u) { stat[4] = stat_of(dot(params.stats.xyz, at) + min(i0 + (4u * LANES + lane) % ROWS, last_query) * params.stats.w); }
  if (ROWS / LANES > 5u) { stat[5] = stat_of(dot(params.stats.xyz, at) + min(i0 + (5u * LANES + lane) % ROWS, last_query) * params.stats.w); }
  if (ROWS / LANES > 6u) { stat[6] = stat_of(dot(params.stats.xyz, at) + min(i0 + (6u * LANES + lane) % ROWS, last_query) * params.stats.w); }
  if (ROWS / LANES > 7u) { stat[7] = stat_of(dot(params.stats.xyz, at) + min(i0 + (7u * LANES + lane) % ROWS, last_query) * params.stats.w); }
  var sums_0: array<vec4f, 8>;
  var sums_1: array<vec4f, 8>;
  var sums_2: array<vec4f, 8>;
  var sums_3: array<vec4f, 8>;
  var w: array<vec4f, 8>;
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    let key = j0 + lane + vec4u(0u, LANES, 2u * LANES, 3u * LANES);
    let key_at = min(key, vec4u(last_key));
    let k_at = k_head + key_at * params.k.w;
    let v_at = v_head + key_at * params.v.w;
    var s: array<vec4f, 8>;
    var slope: array<vec4f, 8>;
    clear(&s);
    clear(&slope);
    for (var c = 0u; c < params.granules; c++) {
      var held: array<vec4f, 8>;
      held[0] = unpack_q(q[q_at[0] + c]);
      if (ROWS / LANES > 1u) { held[1] = unpack_q(q[q_at[1] + c]); }
      if (ROWS / LANES > 2u) { held[2] = unpack_q(q[q_at[2] + c]); }
      if (ROWS / LANES > 3u) { held[3] = unpack_q(q[q_at[3] + c]); }
      if (ROWS / LANES > 4u) { held[4] = unpack_q(q[q_at[4] + c]); }
      if (ROWS / LANES > 5u) { held[5] = unpack_q(q[q_at[5] + c]); }
      if (ROWS / LANES > 6u) { held[6] = unpack_q(q[q_at[6] + c]); }
      if (ROWS / LANES > 7u) { held[7] = unpack_q(q[q_at[7] + c]); }
      add_scores(&s, &held, transpose(mat4x4f(unpack_k(k[k_at.x + c]), unpack_k(k[k_at.y + c]), unpack_k(k[k_at.z + c]), unpack_k(k[k_at.w + c]))));
      held[0] = unpack_g(g[g_at[0] + c]);
      if (ROWS / LANES > 1u) { held[1] = unpack_g(g[g_at[1] + c]); }
      if (ROWS / LANES > 2u) { held[2] = unpack_g(g[g_at[2] + c]); }
      if (ROWS / LANES > 3u) { held[3] = unpack_g(g[g_at[3] + c]); }
      if (ROWS / LANES > 4u) { held[4] = unpack_g(g[g_at[4] + c]); }
      if (ROWS / LANES > 5u) { held[5] = unpack_g(g[g_at[5] + c]); }
      if (ROWS / LANES > 6u) { held[6] = unpack_g(g[g_at[6] + c]); }
      if (ROWS / LANES > 7u) { held[7] = unpack_g(g[g_at[7] + c]); }
      add_scores(&slope, &held, transpose(mat4x4f(unpack_k(v[v_at.x + c]), unpack_k(v[v_at.y + c]), unpack_k(v[v_at.z + c]), unpack_k(v[v_at.w + c]))));
    }
    let id = documents(b, key_at);
    s[0] = score_gradients(s[0], slope[0], get_s(stat[0u / LANES], 0u % LANES), b, i0 + 0u, key, id, begin, id_of_row(&held_ids, 0u));
    s[1] = score_gradients(s[1], slope[1], get_s(stat[1u / LANES], 1u % LANES), b, i0 + 1u, key, id, begin, id_of_row(&held_ids, 1u));
    s[2] = score_gradients(s[2], slope[2], get_s(stat[2u / LANES], 2u % LANES), b, i0 + 2u, key, id, begin, id_of_row(&held_ids, 2u));
    s[3] = score_gradients(s[3], slope[3], get_s(stat[3u / LANES], 3u % LANES), b, i0 + 3u, key, id, begin, id_of_row(&held_ids, 3u));
    s[4] = score_gradients(s[4], slope[4], get_s(stat[4u / LANES], 4u % LANES), b, i0 + 4u, key, id, begin, id_of_row(&held_ids, 4u));
    s[5] = score_gradients(s[5], slope[5], get_s(stat[5u / LANES], 5u % LANES), b, i0 + 5u, key, id, begin, id_of_row(&held_ids, 5u));
    s[6] = score_gradients(s[6], slope[6], get_s(stat[6u / LANES], 6u % LANES), b, i0 + 6u, key, id, begin, id_of_row(&held_ids, 6u));
    s[7] = score_gradients(s[7], slope[7], get_s(stat[7u / LANES], 7u % LANES), b, i0 + 7u, key, id, begin, id_of_row(&held_ids, 7u));
    let columns = min(COLUMNS, end - j0);
    for (var t = 0u; t < LANES; t++) {
      weights(&w, &s, t);
      // One column a round: each load is in the code once, which software Vulkan compiles slowly.
      for (var u = t; u < columns; u += LANES) {
        let k_u = k_head + (j0 + u) * params.k.w;
        add_rows(&sums_0, &w, unpack_k(k[k_u + column.x]));
        if (CHUNKS > 1u) { add_rows(&sums_1, &w, unpack_k(k[k_u + column.y])); }
        if (CHUNKS > 2u) { add_rows(&sums_2, &w, unpack_k(k[k_u + column.z])); }
        if (CHUNKS > 3u) { add_rows(&sums_3, &w, unpack_k(k[k_u + column.w])); }
        turn(&w);
      }
    }
  }
  let scale = vec4f(params.slope);
  multiply(&sums_0, scale, scale);
  if (CHUNKS > 1u) { multiply(&sums_1, scale, scale); }
  if (CHUNKS > 2u) { multiply(&sums_2, scale, scale); }
  if (CHUNKS > 3u) { multiply(&sums_3, scale, scale); }
  let rows = min(ROWS, params.queries - i0);
  let dq_at = dot(params.dq.xyz, at) + i0 * params.dq.w;
  for (var r = 0u; r < rows; r++) {
    if (own.x < params.granules) { dq[dq_at + r * params.dq.w + own.x] = pack_q(sums_0[0]); } next_row(&sums_0);
    if (CHUNKS > 1u) { if (own.y < params.granules) { dq[dq_at + r * params.dq.w + own.y] = pack_q(sums_1[0]); } next_row(&sums_1); }
    if (CHUNKS > 2u) { if (own.z < params.granules) { dq[dq_at + r * params.dq.w + own.z] = pack_q(sums_2[0]); } next_row(&sums_2); }
    if (CHUNKS > 3u) { if (own.w < params.granules) { dq[dq_at + r * params.dq.w + own.w] = pack_q(sums_3[0]); } next_row(&sums_3); }
  }
}
