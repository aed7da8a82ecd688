// The sums of attention_naive.wgsl in tiles of 32 queries and 32 keys in workgroup memory, by 64 invocations: each has the scores of 4 queries
// and 4 keys, then a granule of each chunk of the result for its 4 queries.
// Grid: flat over heads · ceil(queries / 32) · slices workgroups, folded; light and heavy tiles of a causal head alternate.
//#use grid
//#use attention_forward
//#use attention_range
//#use attention_block
const CHUNKS = 1u; // chunks of 8 granules that a workgroup computes: 1, 2 or 4

// What the invocations of a row know of it: [row][x].
var<workgroup> shares: array<f32, ROWS * 8u>;

@compute @workgroup_size(64)
fn attention_tiled(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
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
  let k_head = dot(params.k.xyz, at_key);
  let v_head = dot(params.v.xyz, at_key);
  var s: array<vec4f, 4>;
  var part: array<vec4f, 4>;
  var sums: array<vec4f, 4u * CHUNKS>;
  for (var r = 0u; r < 4u * CHUNKS; r++) { sums[r] = vec4f(); }
  // State of the 4 rows: the largest score so far, and this invocation's share of the sum of powers.
  var top = vec4f(-3e38);
  var total = vec4f();
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    let key = j0 + 4u * x + vec4u(0u, 1u, 2u, 3u);
    let id = documents(b, min(key, vec4u(last_key)));
    for (var r = 0u; r < 4u; r++) { s[r] = vec4f(); }
    for (var c = 0u; c < chunks; c++) {
      load_q(X, q_head, i0, last_query, c, lane);
      load_k(Y, k_head, j0, last_key, c, lane);
      workgroupBarrier();
      add_scores(&s, x, y, min(CHUNK, params.granules - c * CHUNK));
      workgroupBarrier();
    }
    for (var r = 0u; r < 4u; r++) {
      s[r] = select(vec4f(-3e38), s[r] * params.scale, seen(b, own + r, key, id, begin));
      shares[(4u * y + r) * 8u + x] = hmax4(s[r]);
    }
    workgroupBarrier();
    for (var r = 0u; r < 4u; r++) {
      var high = top[r];
      for (var e = 0u; e < 8u; e++) { high = max(high, shares[(4u * y + r) * 8u + e]); }
      let shrink = exp2(max(top[r] - high, -126.0));
      top[r] = high;
      let p = powers(s[r], high);
      total[r] = total[r] * shrink + ((p.x + p.y) + (p.z + p.w));
      for (var c = 0u; c < CHUNKS; c++) { sums[c * 4u + r] *= shrink; }
      tiles[W + (4u * y + r) * STRIDE + x] = p;
    }
    for (var c = 0u; c < CHUNKS; c++) {
      load_v(Y, v_head, j0, last_key, slice * CHUNKS + c, lane);
      workgroupBarrier();
      weigh(&part, x, y, min(COLUMNS, end - j0));
      for (var r = 0u; r < 4u; r++) { sums[c * 4u + r] += part[r]; }
      workgroupBarrier();
    }
  }
  for (var r = 0u; r < 4u; r++) { shares[(4u * y + r) * 8u + x] = total[r]; }
  workgroupBarrier();
  let o_head = dot(params.o.xyz, at);
  for (var r = 0u; r < 4u; r++) {
    var sum = 0.0;
    for (var e = 0u; e < 8u; e++) { sum += shares[(4u * y + r) * 8u + e]; }
    if (own + r < params.queries) {
      let share = share_of(sum, begin, own + r);
      for (var c = 0u; c < CHUNKS; c++) {
        let g = (slice * CHUNKS + c) * CHUNK + x;
        if (g < params.granules) { o[o_head + (own + r) * params.o.w + g] = pack_o(sums[c * 4u + r] * share); }
      }
      if (slice == 0u && x == 0u) { lse[dot(params.lse, vec4u(at, own + r))] = log_sum(top[r], sum, begin, own + r); }
    }
  }
}
