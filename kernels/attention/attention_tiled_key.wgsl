// Gradients of k and v, as in attention_naive_key.wgsl, in the tiles of attention_tiled.wgsl with keys as rows and queries as columns, over all
// query heads of the group; a workgroup computes one part of 16 granules of both. Grid: flat over key heads · ceil(keys / 32) · slices workgroups, folded.
//#use grid
//#use attention_key
//#use attention_range
//#use attention_block
//#use attention_block_gradient

// Whether key j is seen by the four queries `query` with the ids `id`.
fn seen_by(b: u32, j: u32, query: vec4u, id: vec4u, begin: u32) -> vec4<bool> {
  let end = vec4u(end_key(query.x), end_key(query.y), end_key(query.z), end_key(query.w));
  let yes = (query < vec4u(params.queries)) & (vec4u(j) < end) & (vec4u(j) >= vec4u(begin));
  if (!masked_by(DOCUMENTS)) { return yes; }
  return yes & (id == vec4u(document(b, min(j, params.keys - 1u))));
}

// sums[r] += Σ weights[row r][j] · granule x of the gradient of query j, of part `part`.
fn add_g(sums: ptr<function, array<vec4f, 4>>, head: u32, first: u32, part: u32, lane: u32) {
  var own: array<vec4f, 4>;
  for (var r = 0u; r < 4u; r++) { own[r] = vec4f(); }
  for (var step = 0u; step < steps(); step++) {
    for (var i = 0u; i < STEP * PART / WORKGROUP; i++) {
      let e = lane + i * WORKGROUP;
      put_step(e, granule_g(head, first + step_column(step, e), params.queries - 1u, part * PART + e % PART));
    }
    workgroupBarrier();
    weigh(&own, lane, step);
    workgroupBarrier();
  }
  for (var r = 0u; r < 4u; r++) { (*sums)[r] += own[r]; }
}
// sums[r] += Σ weights[row r][j] · granule x of query j, of part `part`.
fn add_q(sums: ptr<function, array<vec4f, 4>>, head: u32, first: u32, part: u32, lane: u32) {
  var own: array<vec4f, 4>;
  for (var r = 0u; r < 4u; r++) { own[r] = vec4f(); }
  for (var step = 0u; step < steps(); step++) {
    for (var i = 0u; i < STEP * PART / WORKGROUP; i++) {
      let e = lane + i * WORKGROUP;
      put_step(e, granule_q(head, first + step_column(step, e), params.queries - 1u, part * PART + e % PART));
    }
    workgroupBarrier();
    weigh(&own, lane, step);
    workgroupBarrier();
  }
  for (var r = 0u; r < 4u; r++) { (*sums)[r] += own[r]; }
}

fn store(sums_k: ptr<function, array<vec4f, 4>>, sums_v: ptr<function, array<vec4f, 4>>, at_key: vec3u, own: u32, g: u32) {
  let dk_head = dot(params.dk.xyz, at_key);
  let dv_head = dot(params.dv.xyz, at_key);
  for (var r = 0u; r < 4u; r++) {
    if (own + r < params.keys && g < params.granules) {
      dk[dk_head + (own + r) * params.dk.w + g] = pack_k((*sums_k)[r] * params.slope);
      dv[dv_head + (own + r) * params.dv.w + g] = pack_k((*sums_v)[r]);
    }
  }
}

@compute @workgroup_size(WORKGROUP)
fn attention_tiled_key(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let x = lane % 16u;
  let y = lane / 16u;
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
  var slope: array<vec4f, 4>;
  var sums_k: array<vec4f, 4>;
  var sums_v: array<vec4f, 4>;
  for (var head = 0u; head < params.group; head++) {
    let at = vec3u(1u, b, h * params.group + head);
    let q_head = dot(params.q.xyz, at);
    let g_head = dot(params.g.xyz, at);
    let stats_head = dot(params.stats.xyz, at);
    for (var i0 = first - first % COLUMNS; i0 < end; i0 += COLUMNS) {
      i0 = next_tile(b, i0, end, ids);
      if (i0 >= end) { break; }
      for (var r = 0u; r < 4u; r++) { s[r] = vec4f(); slope[r] = vec4f(); }
      for (var c = 0u; c < chunks; c++) {
        for (var i = 0u; i < ROWS * CHUNK / WORKGROUP; i++) {
          let e = lane + i * WORKGROUP;
          put_row(e, granule_k(k_head, j0 + e / CHUNK, last_key, c * CHUNK + e % CHUNK));
        }
        for (var i = 0u; i < COLUMNS * CHUNK / WORKGROUP; i++) {
          let e = lane + i * WORKGROUP;
          put_column(e, granule_q(q_head, i0 + e / CHUNK, last_query, c * CHUNK + e % CHUNK));
        }
        workgroupBarrier();
        add_scores(&s, lane, params.granules - c * CHUNK);
        workgroupBarrier();
        for (var i = 0u; i < ROWS * CHUNK / WORKGROUP; i++) {
          let e = lane + i * WORKGROUP;
          put_row(e, granule_v(v_head, j0 + e / CHUNK, last_key, c * CHUNK + e % CHUNK));
        }
        for (var i = 0u; i < COLUMNS * CHUNK / WORKGROUP; i++) {
          let e = lane + i * WORKGROUP;
          put_column(e, granule_g(g_head, i0 + e / CHUNK, last_query, c * CHUNK + e % CHUNK));
        }
        workgroupBarrier();
        add_scores(&slope, lane, params.granules - c * CHUNK);
        workgroupBarrier();
      }
      let query = i0 + x + vec4u(0u, 16u, 32u, 48u);
      let query_at = min(query, vec4u(last_query));
      let id = documents(b, query_at);
      let stat_at = stats_head + query_at * params.stats.w;
      let lse = vec4f(stats[stat_at.x], stats[stat_at.y], stats[stat_at.z], stats[stat_at.w]);
      let delta = vec4f(stats[stat_at.x + 1u], stats[stat_at.y + 1u], stats[stat_at.z + 1u], stats[stat_at.w + 1u]);
      // The weights of g, and in `slope` those of q.
      for (var r = 0u; r < 4u; r++) {
        let p = select(vec4f(), powers_of(s[r] * params.scale, lse), seen_by(b, own + r, query, id, begin));
        put_weight(lane, r, p);
        slope[r] = p * (slope[r] - delta);
      }
      add_g(&sums_v, g_head, i0, slice, lane);
      for (var r = 0u; r < 4u; r++) { put_weight(lane, r, slope[r]); }
      add_q(&sums_k, q_head, i0, slice, lane);
    }
  }
  store(&sums_k, &sums_v, at_key, own, slice * PART + x);
}
