// The sums of attention_naive.wgsl in tiles of 32 queries and 64 keys in workgroup memory, by 128 invocations: each has the scores of 4 queries
// and 4 keys, then a granule of each part of the result for its 4 queries. The parts' sums have names instead of an index: compilers put an
// array into memory if its index is not known to them.
// Grid: flat over heads · ceil(queries / 32) · slices workgroups, folded; light and heavy tiles of a causal head alternate.
//#use grid
//#use attention_forward
//#use attention_range
//#use attention_block
const PARTS = 1u; // parts of 16 granules that a workgroup computes: 1 or 2

// What the invocations of four rows know of them.
var<workgroup> shares: array<vec4f, WORKGROUP>;

// sums[r] += Σ weights[row r][j] · granule x of value j, of part `part`.
fn add_values(sums: ptr<function, array<vec4f, 4>>, head: u32, first: u32, part: u32, lane: u32) {
  var own: array<vec4f, 4>;
  for (var r = 0u; r < 4u; r++) { own[r] = vec4f(); }
  for (var step = 0u; step < steps(); step++) {
    for (var i = 0u; i < STEP * PART / WORKGROUP; i++) {
      let e = lane + i * WORKGROUP;
      put_step(e, granule_v(head, first + step_column(step, e), params.keys - 1u, part * PART + e % PART));
    }
    workgroupBarrier();
    weigh(&own, lane, step);
    workgroupBarrier();
  }
  for (var r = 0u; r < 4u; r++) { (*sums)[r] += own[r]; }
}

fn store(sums: ptr<function, array<vec4f, 4>>, share: vec4f, head: u32, own: u32, g: u32) {
  for (var r = 0u; r < 4u; r++) {
    if (own + r < params.queries && g < params.granules) { o[head + (own + r) * params.o.w + g] = pack_o((*sums)[r] * share[r]); }
  }
}

@compute @workgroup_size(WORKGROUP)
fn attention_tiled(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
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
  let k_head = dot(params.k.xyz, at_key);
  let v_head = dot(params.v.xyz, at_key);
  var s: array<vec4f, 4>;
  // Sums of the first and the second part.
  var sums0: array<vec4f, 4>;
  var sums1: array<vec4f, 4>;
  // State of the 4 rows: the largest score so far, and this invocation's share of the sum of powers.
  var top = vec4f(-3e38);
  var total = vec4f();
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    for (var r = 0u; r < 4u; r++) { s[r] = vec4f(); }
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
    }
    let key = j0 + x + vec4u(0u, 16u, 32u, 48u);
    let id = documents(b, min(key, vec4u(last_key)));
    for (var r = 0u; r < 4u; r++) { s[r] = select(vec4f(-3e38), s[r] * params.scale, sees(b, own + r, key, id, begin)); }
    shares[lane] = vec4f(hmax4(s[0]), hmax4(s[1]), hmax4(s[2]), hmax4(s[3]));
    workgroupBarrier();
    var high = top;
    for (var e = 0u; e < 16u; e++) { high = max(high, shares[lane / 16u % 8u * 16u + e]); }
    let shrink = exp2(max(top - high, vec4f(-126.0)));
    top = high;
    for (var r = 0u; r < 4u; r++) {
      let p = powers(s[r], high[r]);
      total[r] = total[r] * shrink[r] + ((p.x + p.y) + (p.z + p.w));
      sums0[r] *= shrink[r];
      if (PARTS > 1u) { sums1[r] *= shrink[r]; }
      put_weight(lane, r, p);
    }
    add_values(&sums0, v_head, j0, slice * PARTS, lane);
    if (PARTS > 1u) { add_values(&sums1, v_head, j0, slice * PARTS + 1u, lane); }
  }
  shares[lane] = total;
  workgroupBarrier();
  var sum = vec4f();
  for (var e = 0u; e < 16u; e++) { sum += shares[lane / 16u % 8u * 16u + e]; }
  var share: vec4f;
  for (var r = 0u; r < 4u; r++) { share[r] = share_of(sum[r], begin, own + r); }
  let o_head = dot(params.o.xyz, at);
  let g = slice * PARTS * PART + x;
  store(&sums0, share, o_head, own, g);
  if (PARTS > 1u) { store(&sums1, share, o_head, own, g + PART); }
  if (slice == 0u && x == 0u) {
    for (var r = 0u; r < 4u; r++) {
      if (own + r < params.queries) { lse[dot(params.lse, vec4u(at, own + r))] = log_sum(top[r], sum[r], begin, own + r); }
    }
  }
}
