// Gradient of q, as in attention_naive_query.wgsl, in the tiles of attention_tiled.wgsl.
// Grid: flat over heads · ceil(queries / 32) · slices workgroups, folded.
//#use grid
//#use attention_query
//#use attention_range
//#use attention_block
//#use attention_block_gradient
const PARTS = 1u; // parts of 16 granules that a workgroup computes: 1 or 2

// sums[r] += Σ weights[row r][j] · granule x of key j, of part `part`.
fn add_keys(sums: ptr<function, array<vec4f, 4>>, head: u32, first: u32, part: u32, lane: u32) {
  var own: array<vec4f, 4>;
  for (var r = 0u; r < 4u; r++) { own[r] = vec4f(); }
  for (var step = 0u; step < steps(); step++) {
    for (var i = 0u; i < STEP * PART / WORKGROUP; i++) {
      let e = lane + i * WORKGROUP;
      put_step(e, granule_k(head, first + step_column(step, e), params.keys - 1u, part * PART + e % PART));
    }
    workgroupBarrier();
    weigh(&own, lane, step);
    workgroupBarrier();
  }
  for (var r = 0u; r < 4u; r++) { (*sums)[r] += own[r]; }
}

fn store(sums: ptr<function, array<vec4f, 4>>, head: u32, own: u32, g: u32) {
  for (var r = 0u; r < 4u; r++) {
    if (own + r < params.queries && g < params.granules) { dq[head + (own + r) * params.dq.w + g] = pack_q((*sums)[r] * params.slope); }
  }
}

@compute @workgroup_size(WORKGROUP)
fn attention_tiled_query(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let x = lane % 16u;
  let y = lane / 16u;
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
  var s: array<vec4f, 4>;
  var slope: array<vec4f, 4>;
  // Sums of the first and the second part.
  var sums0: array<vec4f, 4>;
  var sums1: array<vec4f, 4>;
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    for (var r = 0u; r < 4u; r++) { s[r] = vec4f(); slope[r] = vec4f(); }
    for (var c = 0u; c < chunks; c++) {
      for (var i = 0u; i < ROWS * CHUNK / WORKGROUP; i++) {
        let e = lane + i * WORKGROUP;
        put_row(e, granule_q(q_head, i0 + e / CHUNK, last_query, c * CHUNK + e % CHUNK));
      }
      for (var i = 0u; i < COLUMNS * CHUNK / WORKGROUP; i++) {
        let e = lane + i * WORKGROUP;
        put_column(e, granule_k(k_head, j0 + e / CHUNK, last_key, c * CHUNK + e % CHUNK));
      }
      workgroupBarrier();
      add_scores(&s, lane, params.granules - c * CHUNK);
      workgroupBarrier();
      for (var i = 0u; i < ROWS * CHUNK / WORKGROUP; i++) {
        let e = lane + i * WORKGROUP;
        put_row(e, granule_g(g_head, i0 + e / CHUNK, last_query, c * CHUNK + e % CHUNK));
      }
      for (var i = 0u; i < COLUMNS * CHUNK / WORKGROUP; i++) {
        let e = lane + i * WORKGROUP;
        put_column(e, granule_v(v_head, j0 + e / CHUNK, last_key, c * CHUNK + e % CHUNK));
      }
      workgroupBarrier();
      add_scores(&slope, lane, params.granules - c * CHUNK);
      workgroupBarrier();
    }
    let key = j0 + x + vec4u(0u, 16u, 32u, 48u);
    let id = documents(b, min(key, vec4u(last_key)));
    // Loaded again for each tile: they would take registers while the scores are summed.
    let lse = vec4f(stats[stat_at.x], stats[stat_at.y], stats[stat_at.z], stats[stat_at.w]);
    let delta = vec4f(stats[stat_at.x + 1u], stats[stat_at.y + 1u], stats[stat_at.z + 1u], stats[stat_at.w + 1u]);
    for (var r = 0u; r < 4u; r++) {
      let p = powers_of(s[r] * params.scale, vec4f(lse[r]));
      put_weight(lane, r, select(vec4f(), p * (slope[r] - delta[r]), sees(b, own + r, key, id, begin)));
    }
    add_keys(&sums0, k_head, j0, slice * PARTS, lane);
    if (PARTS > 1u) { add_keys(&sums1, k_head, j0, slice * PARTS + 1u, lane); }
  }
  let dq_head = dot(params.dq.xyz, at);
  let g_first = slice * PARTS * PART + x;
  store(&sums0, dq_head, own, g_first);
  if (PARTS > 1u) { store(&sums1, dq_head, own, g_first + PART); }
}
