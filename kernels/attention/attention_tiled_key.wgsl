// Gradients of k and v, as in attention_naive_key.wgsl, in the tiles of attention_tiled.wgsl with keys as rows and queries as columns, over all
// query heads of the group. Grid: flat over key heads · ceil(keys / 32) · slices workgroups, folded.
//#use grid
//#use attention_key
//#use attention_range
//#use attention_block
//#use attention_block_gradient
const CHUNKS = 1u; // chunks of 8 granules that a workgroup computes: 1 or 2

// Whether key j is seen by the four queries `query` with the ids `id`.
fn seen_by(b: u32, j: u32, query: vec4u, id: vec4u, begin: u32) -> vec4<bool> {
  let end = vec4u(end_key(query.x), end_key(query.y), end_key(query.z), end_key(query.w));
  let yes = (query < vec4u(params.queries)) & (vec4u(j) < end) & (vec4u(j) >= vec4u(begin));
  if (!masked_by(DOCUMENTS)) { return yes; }
  return yes & (id == vec4u(document(b, min(j, params.keys - 1u))));
}

@compute @workgroup_size(64)
fn attention_tiled_key(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let x = lane % 8u;
  let y = lane / 8u;
  let task = flat_group(group, groups);
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
  let chunks = (params.granules + CHUNK - 1u) / CHUNK;
  let own = j0 + 4u * y;
  let k_head = dot(params.k.xyz, at_key);
  let v_head = dot(params.v.xyz, at_key);
  var s: array<vec4f, 4>;
  var part: array<vec4f, 4>;
  var slope: array<vec4f, 4>;
  var sums_k: array<vec4f, 4u * CHUNKS>;
  var sums_v: array<vec4f, 4u * CHUNKS>;
  for (var r = 0u; r < 4u * CHUNKS; r++) { sums_k[r] = vec4f(); sums_v[r] = vec4f(); }
  for (var e = 0u; e < params.group; e++) {
    let at = vec3u(1u, b, h * params.group + e);
    let q_head = dot(params.q.xyz, at);
    let g_head = dot(params.g.xyz, at);
    let stats_head = dot(params.stats.xyz, at);
    for (var i0 = first - first % COLUMNS; i0 < end; i0 += COLUMNS) {
      i0 = next_tile(b, i0, end, ids);
      if (i0 >= end) { break; }
      let query = i0 + 4u * x + vec4u(0u, 1u, 2u, 3u);
      let query_at = min(query, vec4u(last_query));
      let id = documents(b, query_at);
      let stat_at = stats_head + query_at * params.stats.w;
      let lse = vec4f(stats[stat_at.x], stats[stat_at.y], stats[stat_at.z], stats[stat_at.w]);
      let delta = vec4f(stats[stat_at.x + 1u], stats[stat_at.y + 1u], stats[stat_at.z + 1u], stats[stat_at.w + 1u]);
      for (var r = 0u; r < 4u; r++) { s[r] = vec4f(); slope[r] = vec4f(); }
      for (var c = 0u; c < chunks; c++) {
        load_k(X, k_head, j0, last_key, c, lane);
        load_q(Y, q_head, i0, last_query, c, lane);
        workgroupBarrier();
        add_scores(&s, x, y, min(CHUNK, params.granules - c * CHUNK));
        workgroupBarrier();
        load_v(X, v_head, j0, last_key, c, lane);
        load_g(Y, g_head, i0, last_query, c, lane);
        workgroupBarrier();
        add_scores(&slope, x, y, min(CHUNK, params.granules - c * CHUNK));
        workgroupBarrier();
      }
      for (var r = 0u; r < 4u; r++) {
        let p = powers_of(s[r] * params.scale, lse);
        s[r] = select(vec4f(), p, seen_by(b, own + r, query, id, begin));
        tiles[W + (4u * y + r) * STRIDE + x] = s[r];
      }
      for (var c = 0u; c < CHUNKS; c++) {
        load_g(Y, g_head, i0, last_query, slice * CHUNKS + c, lane);
        workgroupBarrier();
        weigh(&part, x, y, min(COLUMNS, params.queries - i0));
        for (var r = 0u; r < 4u; r++) { sums_v[c * 4u + r] += part[r]; }
        workgroupBarrier();
      }
      for (var r = 0u; r < 4u; r++) { tiles[W + (4u * y + r) * STRIDE + x] = s[r] * (slope[r] - delta); }
      for (var c = 0u; c < CHUNKS; c++) {
        load_q(Y, q_head, i0, last_query, slice * CHUNKS + c, lane);
        workgroupBarrier();
        weigh(&part, x, y, min(COLUMNS, params.queries - i0));
        for (var r = 0u; r < 4u; r++) { sums_k[c * 4u + r] += part[r]; }
        workgroupBarrier();
      }
    }
  }
  let dk_head = dot(params.dk.xyz, at_key);
  let dv_head = dot(params.dv.xyz, at_key);
  for (var r = 0u; r < 4u; r++) {
    for (var c = 0u; c < CHUNKS; c++) {
      let at_c = (slice * CHUNKS + c) * CHUNK + x;
      if (own + r < params.keys && at_c < params.granules) {
        dk[dk_head + (own + r) * params.dk.w + at_c] = pack_k(sums_k[c * 4u + r] * params.slope);
        dv[dv_head + (own + r) * params.dv.w + at_c] = pack_k(sums_v[c * 4u + r]);
      }
    }
  }
}
