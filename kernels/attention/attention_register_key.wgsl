// Gradients of k and v, as in attention_naive_key.wgsl, in tiles of 8 keys against 4 · LANES queries a step: the tiles of
// attention_register.wgsl with keys as rows and queries as columns, over all query heads of the group.
// Grid: flat over ceil(key heads · ceil(keys / 8) · slices · LANES / WORKGROUP), folded.
//#use grid
//#use attention_key
//#use attention_range
//#use attention_tile
//#use attention_lanes_none as s
const WORKGROUP = 64u; // invocations
const LANES = 1u; // that share a tile: 1, or the subgroup size, which is then WORKGROUP
const CHUNKS = 1u; // chunks of LANES granules that a tile computes: 1 or 2

// Probabilities of the four queries `query` for key j; 0 if masked.
fn probabilities(s: vec4f, lse: vec4f, b: u32, j: u32, query: vec4u, id: vec4u, begin: u32, row_id: u32) -> vec4f {
  let end = vec4u(end_key(query.x), end_key(query.y), end_key(query.z), end_key(query.w));
  var seen = (query < vec4u(params.queries)) & (vec4u(j) < end) & vec4<bool>(j >= begin);
  if (masked_by(DOCUMENTS)) { seen = seen & (id == vec4u(row_id)); }
  return select(vec4f(), powers_of(s * params.scale, lse), seen);
}

@compute @workgroup_size(WORKGROUP)
fn attention_register_key(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let lane = invocation % LANES;
  let task = tile_of_s(flat_group(group, groups), invocation);
  if (task >= params.rows) { return; }
  let count = (params.keys + ROWS - 1u) / ROWS;
  let slice = task % params.slices;
  let j0 = ROWS * alternate((task / params.slices) % count, count);
  let b = task / (params.slices * count * params.heads);
  let h = (task / (params.slices * count)) % params.heads;
  let at_key = vec3u(1u, b, h);
  let last_query = params.queries - 1u;
  let last_key = params.keys - 1u;
  let ids = id_range(b, j0, ROWS, params.keys);
  let begin = first_key(b);
  // Keys before the first one that counts have no queries.
  let end = select(0u, params.queries, j0 + ROWS > begin);
  let first = first_query(j0);
  // Granule of this lane in each chunk; those beyond the head repeat its last one.
  let own = vec4u(0u, LANES, 2u * LANES, 3u * LANES) + (slice * CHUNKS * LANES + lane);
  let column = min(own, vec4u(params.granules - 1u));
  var k_at: array<u32, 8>;
  rows_of(&k_at, dot(params.k.xyz, at_key), j0, last_key, params.k.w, lane);
  var held_ids: array<u32, 8>;
  ids_of_rows(&held_ids, b, j0, last_key, lane);
  var v_at: array<u32, 8>;
  rows_of(&v_at, dot(params.v.xyz, at_key), j0, last_key, params.v.w, lane);
  var dk_0: array<vec4f, 8>;
  var dk_1: array<vec4f, 8>;
  var dv_0: array<vec4f, 8>;
  var dv_1: array<vec4f, 8>;
  var w: array<vec4f, 8>;
  var w_2: array<vec4f, 8>;
  for (var e = 0u; e < params.group; e++) {
    let at = vec3u(1u, b, h * params.group + e);
    let q_head = dot(params.q.xyz, at);
    let g_head = dot(params.g.xyz, at);
    let stats_head = dot(params.stats.xyz, at);
    for (var i0 = first - first % COLUMNS; i0 < end; i0 += COLUMNS) {
      i0 = next_tile(b, i0, end, ids);
      if (i0 >= end) { break; }
      let query = i0 + lane + vec4u(0u, LANES, 2u * LANES, 3u * LANES);
      let query_at = min(query, vec4u(last_query));
      let q_at = q_head + query_at * params.q.w;
      let g_at = g_head + query_at * params.g.w;
      var s: array<vec4f, 8>;
      var slope: array<vec4f, 8>;
      clear(&s);
      clear(&slope);
      for (var c = 0u; c < params.granules; c++) {
        var held: array<vec4f, 8>;
        held[0] = unpack_k(k[k_at[0] + c]);
        if (ROWS / LANES > 1u) { held[1] = unpack_k(k[k_at[1] + c]); }
        if (ROWS / LANES > 2u) { held[2] = unpack_k(k[k_at[2] + c]); }
        if (ROWS / LANES > 3u) { held[3] = unpack_k(k[k_at[3] + c]); }
        if (ROWS / LANES > 4u) { held[4] = unpack_k(k[k_at[4] + c]); }
        if (ROWS / LANES > 5u) { held[5] = unpack_k(k[k_at[5] + c]); }
        if (ROWS / LANES > 6u) { held[6] = unpack_k(k[k_at[6] + c]); }
        if (ROWS / LANES > 7u) { held[7] = unpack_k(k[k_at[7] + c]); }
        add_scores(&s, &held, transpose(mat4x4f(unpack_q(q[q_at.x + c]), unpack_q(q[q_at.y + c]), unpack_q(q[q_at.z + c]), unpack_q(q[q_at.w + c]))));
        held[0] = unpack_k(v[v_at[0] + c]);
        if (ROWS / LANES > 1u) { held[1] = unpack_k(v[v_at[1] + c]); }
        if (ROWS / LANES > 2u) { held[2] = unpack_k(v[v_at[2] + c]); }
        if (ROWS / LANES > 3u) { held[3] = unpack_k(v[v_at[3] + c]); }
        if (ROWS / LANES > 4u) { held[4] = unpack_k(v[v_at[4] + c]); }
        if (ROWS / LANES > 5u) { held[5] = unpack_k(v[v_at[5] + c]); }
        if (ROWS / LANES > 6u) { held[6] = unpack_k(v[v_at[6] + c]); }
        if (ROWS / LANES > 7u) { held[7] = unpack_k(v[v_at[7] + c]); }
        add_scores(&slope, &held, transpose(mat4x4f(unpack_g(g[g_at.x + c]), unpack_g(g[g_at.y + c]), unpack_g(g[g_at.z + c]), unpack_g(g[g_at.w + c]))));
      }
      let id = documents(b, query_at);
      let stat_at = stats_head + query_at * params.stats.w;
      let lse = vec4f(stats[stat_at.x], stats[stat_at.y], stats[stat_at.z], stats[stat_at.w]);
      let delta = vec4f(stats[stat_at.x + 1u], stats[stat_at.y + 1u], stats[stat_at.z + 1u], stats[stat_at.w + 1u]);
      s[0] = probabilities(s[0], lse, b, j0 + 0u, query, id, begin, id_of_row(&held_ids, 0u));
      slope[0] = s[0] * (slope[0] - delta);
      s[1] = probabilities(s[1], lse, b, j0 + 1u, query, id, begin, id_of_row(&held_ids, 1u));
      slope[1] = s[1] * (slope[1] - delta);
      s[2] = probabilities(s[2], lse, b, j0 + 2u, query, id, begin, id_of_row(&held_ids, 2u));
      slope[2] = s[2] * (slope[2] - delta);
      s[3] = probabilities(s[3], lse, b, j0 + 3u, query, id, begin, id_of_row(&held_ids, 3u));
      slope[3] = s[3] * (slope[3] - delta);
      s[4] = probabilities(s[4], lse, b, j0 + 4u, query, id, begin, id_of_row(&held_ids, 4u));
      slope[4] = s[4] * (slope[4] - delta);
      s[5] = probabilities(s[5], lse, b, j0 + 5u, query, id, begin, id_of_row(&held_ids, 5u));
      slope[5] = s[5] * (slope[5] - delta);
      s[6] = probabilities(s[6], lse, b, j0 + 6u, query, id, begin, id_of_row(&held_ids, 6u));
      slope[6] = s[6] * (slope[6] - delta);
      s[7] = probabilities(s[7], lse, b, j0 + 7u, query, id, begin, id_of_row(&held_ids, 7u));
      slope[7] = s[7] * (slope[7] - delta);
      let columns = min(COLUMNS, params.queries - i0);
      for (var t = 0u; t < LANES; t++) {
        weights(&w, &s, t);
        weights(&w_2, &slope, t);
        // One column a round: each load is in the code once, which software Vulkan compiles slowly.
        for (var u = t; u < columns; u += LANES) {
          let g_u = g_head + (i0 + u) * params.g.w;
          add_rows(&dv_0, &w, unpack_g(g[g_u + column.x]));
          if (CHUNKS > 1u) { add_rows(&dv_1, &w, unpack_g(g[g_u + column.y])); }
          turn(&w);
          let q_u = q_head + (i0 + u) * params.q.w;
          add_rows(&dk_0, &w_2, unpack_q(q[q_u + column.x]));
          if (CHUNKS > 1u) { add_rows(&dk_1, &w_2, unpack_q(q[q_u + column.y])); }
          turn(&w_2);
        }
      }
    }
  }
  let scale = vec4f(params.slope);
  multiply(&dk_0, scale, scale);
  if (CHUNKS > 1u) { multiply(&dk_1, scale, scale); }
  let rows = min(ROWS, params.keys - j0);
  let dk_at = dot(params.dk.xyz, at_key) + j0 * params.dk.w;
  let dv_at = dot(params.dv.xyz, at_key) + j0 * params.dv.w;
  for (var r = 0u; r < rows; r++) {
    if (own.x < params.granules) { dk[dk_at + r * params.dk.w + own.x] = pack_k(dk_0[0]); } next_row(&dk_0);
    if (CHUNKS > 1u) { if (own.y < params.granules) { dk[dk_at + r * params.dk.w + own.y] = pack_k(dk_1[0]); } next_row(&dk_1); }
    if (own.x < params.granules) { dv[dv_at + r * params.dv.w + own.x] = pack_k(dv_0[0]); } next_row(&dv_0);
    if (CHUNKS > 1u) { if (own.y < params.granules) { dv[dv_at + r * params.dv.w + own.y] = pack_k(dv_1[0]); } next_row(&dv_1); }
  }
}
