// Gradient of q, as in attention_naive_query.wgsl, in the tiles of attention_tiled.wgsl.
// Grid: flat over heads · ceil(queries / 32) · slices workgroups, folded.
//#use grid
//#use attention_query
//#use attention_range
//#use attention_block
//#use attention_block_gradient
const CHUNKS = 1u; // chunks of 8 granules that a workgroup computes: 1, 2 or 4

@compute @workgroup_size(64)
fn attention_tiled_query(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let x = lane % 8u;
  let y = lane / 8u;
  let task = flat_group(group, groups);
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
  let ids = id_range(b, i0, ROWS, params.queries);
  let begin = first_key(b);
  let end = end_key(min(i0 + ROWS - 1u, last_query));
  let chunks = (params.granules + CHUNK - 1u) / CHUNK;
  let own = i0 + 4u * y;
  let q_head = dot(params.q.xyz, at);
  let g_head = dot(params.g.xyz, at);
  let k_head = dot(params.k.xyz, at_key);
  let v_head = dot(params.v.xyz, at_key);
  let stat_at = dot(params.stats.xyz, at) + min(own + vec4u(0u, 1u, 2u, 3u), vec4u(last_query)) * params.stats.w;
  let lse = vec4f(stats[stat_at.x], stats[stat_at.y], stats[stat_at.z], stats[stat_at.w]);
  let delta = vec4f(stats[stat_at.x + 1u], stats[stat_at.y + 1u], stats[stat_at.z + 1u], stats[stat_at.w + 1u]);
  var s: array<vec4f, 4>;
  var part: array<vec4f, 4>;
  var slope: array<vec4f, 4>;
  var sums: array<vec4f, 4u * CHUNKS>;
  for (var r = 0u; r < 4u * CHUNKS; r++) { sums[r] = vec4f(); }
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    let key = j0 + 4u * x + vec4u(0u, 1u, 2u, 3u);
    let id = documents(b, min(key, vec4u(last_key)));
    for (var r = 0u; r < 4u; r++) { s[r] = vec4f(); slope[r] = vec4f(); }
    for (var c = 0u; c < chunks; c++) {
      load_q(X, q_head, i0, last_query, c, lane);
      load_k(Y, k_head, j0, last_key, c, lane);
      workgroupBarrier();
      add_scores(&s, x, y, min(CHUNK, params.granules - c * CHUNK));
      workgroupBarrier();
      load_g(X, g_head, i0, last_query, c, lane);
      load_v(Y, v_head, j0, last_key, c, lane);
      workgroupBarrier();
      add_scores(&slope, x, y, min(CHUNK, params.granules - c * CHUNK));
      workgroupBarrier();
    }
    for (var r = 0u; r < 4u; r++) {
      let p = powers_of(s[r] * params.scale, vec4f(lse[r]));
      tiles[W + (4u * y + r) * STRIDE + x] = select(vec4f(), p * (slope[r] - delta[r]), seen(b, own + r, key, id, begin));
    }
    for (var c = 0u; c < CHUNKS; c++) {
      load_k(Y, k_head, j0, last_key, slice * CHUNKS + c, lane);
      workgroupBarrier();
      weigh(&part, x, y, min(COLUMNS, end - j0));
      for (var r = 0u; r < 4u; r++) { sums[c * 4u + r] += part[r]; }
      workgroupBarrier();
    }
  }
  let dq_head = dot(params.dq.xyz, at);
  for (var r = 0u; r < 4u; r++) {
    for (var c = 0u; c < CHUNKS; c++) {
      let at_c = (slice * CHUNKS + c) * CHUNK + x;
      if (own + r < params.queries && at_c < params.granules) { dq[dq_head + (own + r) * params.dq.w + at_c] = pack_q(sums[c * 4u + r] * params.slope); }
    }
  }
}
