// The sums of attention_naive.wgsl in tiles of 8 queries, without workgroup memory. LANES invocations (with library attention_lanes_subgroup, a
// subgroup) take 4 · LANES keys a step: each scores four keys against the 8 queries, whose rows the lanes broadcast; then it owns a granule
// of each chunk of LANES granules of the result, and the probabilities are broadcast. With LANES = 1 an invocation is alone with its tile.
// Grid: flat over ceil(heads · ceil(queries / 8) · slices · LANES / WORKGROUP), folded; light and heavy tiles of a causal head alternate.
//#use grid
//#use attention_forward
//#use attention_range
//#use attention_tile
//#use attention_lanes_none as s
const WORKGROUP = 64u; // invocations
const LANES = 1u; // that share a tile: 1, or the subgroup size, which is then WORKGROUP
const CHUNKS = 1u; // chunks of LANES granules that a tile computes: 1, 2 or 4

// Masked scores of query i: scaled, or −3e38.
fn masked(s: vec4f, b: u32, i: u32, key: vec4u, id: vec4u, begin: u32, row_id: u32) -> vec4f {
  var seen = (key >= vec4u(begin)) & (key < vec4u(end_key(i)));
  if (masked_by(DOCUMENTS)) { seen = seen & (id == vec4u(row_id)); }
  return select(vec4f(-3e38), s * params.scale, seen);
}
fn hsum4(v: vec4f) -> f32 { return (v.x + v.y) + (v.z + v.w); }
// share_of for the rows i … i + 3.
fn shares(total: vec4f, begin: u32, i: u32) -> vec4f {
  return vec4f(share_of(total.x, begin, i), share_of(total.y, begin, i + 1u), share_of(total.z, begin, i + 2u), share_of(total.w, begin, i + 3u));
}

@compute @workgroup_size(WORKGROUP)
fn attention_register(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
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
  var sums_0: array<vec4f, 8>;
  var sums_1: array<vec4f, 8>;
  var sums_2: array<vec4f, 8>;
  var sums_3: array<vec4f, 8>;
  var w: array<vec4f, 8>;
  // State of rows 0 to 3 and 4 to 7: the largest score so far, and this lane's share of the sum of powers.
  var top_0 = vec4f(-3e38);
  var top_1 = vec4f(-3e38);
  var total_0 = vec4f();
  var total_1 = vec4f();
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    let key = j0 + lane + vec4u(0u, LANES, 2u * LANES, 3u * LANES);
    let key_at = min(key, vec4u(last_key));
    let k_at = k_head + key_at * params.k.w;
    var s: array<vec4f, 8>;
    clear(&s);
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
    }
    let id = documents(b, key_at);
    s[0] = masked(s[0], b, i0 + 0u, key, id, begin, id_of_row(&held_ids, 0u));
    s[1] = masked(s[1], b, i0 + 1u, key, id, begin, id_of_row(&held_ids, 1u));
    s[2] = masked(s[2], b, i0 + 2u, key, id, begin, id_of_row(&held_ids, 2u));
    s[3] = masked(s[3], b, i0 + 3u, key, id, begin, id_of_row(&held_ids, 3u));
    s[4] = masked(s[4], b, i0 + 4u, key, id, begin, id_of_row(&held_ids, 4u));
    s[5] = masked(s[5], b, i0 + 5u, key, id, begin, id_of_row(&held_ids, 5u));
    s[6] = masked(s[6], b, i0 + 6u, key, id, begin, id_of_row(&held_ids, 6u));
    s[7] = masked(s[7], b, i0 + 7u, key, id, begin, id_of_row(&held_ids, 7u));
    let high_0 = max(top_0, top_s(vec4f(hmax4(s[0]), hmax4(s[1]), hmax4(s[2]), hmax4(s[3]))));
    let high_1 = max(top_1, top_s(vec4f(hmax4(s[4]), hmax4(s[5]), hmax4(s[6]), hmax4(s[7]))));
    let shrink_0 = exp2(max(top_0 - high_0, vec4f(-126.0)));
    top_0 = high_0;
    let shrink_1 = exp2(max(top_1 - high_1, vec4f(-126.0)));
    top_1 = high_1;
    s[0] = powers(s[0], high_0.x);
    s[1] = powers(s[1], high_0.y);
    s[2] = powers(s[2], high_0.z);
    s[3] = powers(s[3], high_0.w);
    s[4] = powers(s[4], high_1.x);
    s[5] = powers(s[5], high_1.y);
    s[6] = powers(s[6], high_1.z);
    s[7] = powers(s[7], high_1.w);
    total_0 = total_0 * shrink_0 + vec4f(hsum4(s[0]), hsum4(s[1]), hsum4(s[2]), hsum4(s[3]));
    total_1 = total_1 * shrink_1 + vec4f(hsum4(s[4]), hsum4(s[5]), hsum4(s[6]), hsum4(s[7]));
    multiply(&sums_0, shrink_0, shrink_1);
    if (CHUNKS > 1u) { multiply(&sums_1, shrink_0, shrink_1); }
    if (CHUNKS > 2u) { multiply(&sums_2, shrink_0, shrink_1); }
    if (CHUNKS > 3u) { multiply(&sums_3, shrink_0, shrink_1); }
    let columns = min(COLUMNS, end - j0);
    for (var t = 0u; t < LANES; t++) {
      weights(&w, &s, t);
      // One column a round: each load is in the code once, which software Vulkan compiles slowly.
      for (var u = t; u < columns; u += LANES) {
        let v_u = v_head + (j0 + u) * params.v.w;
        add_rows(&sums_0, &w, unpack_k(v[v_u + column.x]));
        if (CHUNKS > 1u) { add_rows(&sums_1, &w, unpack_k(v[v_u + column.y])); }
        if (CHUNKS > 2u) { add_rows(&sums_2, &w, unpack_k(v[v_u + column.z])); }
        if (CHUNKS > 3u) { add_rows(&sums_3, &w, unpack_k(v[v_u + column.w])); }
        turn(&w);
      }
    }
  }
  total_0 = total_s(total_0);
  let share_0 = shares(total_0, begin, i0);
  total_1 = total_s(total_1);
  let share_1 = shares(total_1, begin, i0 + 4u);
  multiply(&sums_0, share_0, share_1);
  if (CHUNKS > 1u) { multiply(&sums_1, share_0, share_1); }
  if (CHUNKS > 2u) { multiply(&sums_2, share_0, share_1); }
  if (CHUNKS > 3u) { multiply(&sums_3, share_0, share_1); }
  let rows = min(ROWS, params.queries - i0);
  let o_at = dot(params.o.xyz, at) + i0 * params.o.w;
  for (var r = 0u; r < rows; r++) {
    if (own.x < params.granules) { o[o_at + r * params.o.w + own.x] = pack_o(sums_0[0]); } next_row(&sums_0);
    if (CHUNKS > 1u) { if (own.y < params.granules) { o[o_at + r * params.o.w + own.y] = pack_o(sums_1[0]); } next_row(&sums_1); }
    if (CHUNKS > 2u) { if (own.z < params.granules) { o[o_at + r * params.o.w + own.z] = pack_o(sums_2[0]); } next_row(&sums_2); }
    if (CHUNKS > 3u) { if (own.w < params.granules) { o[o_at + r * params.o.w + own.w] = pack_o(sums_3[0]); } next_row(&sums_3); }
  }
  if (slice == 0u && lane == 0u) {
    // A copy: what is indexed lies in memory.
    var tops = array<f32, 8>(top_0.x, top_0.y, top_0.z, top_0.w, top_1.x, top_1.y, top_1.z, top_1.w);
    var totals = array<f32, 8>(total_0.x, total_0.y, total_0.z, total_0.w, total_1.x, total_1.y, total_1.z, total_1.w);
    let out = dot(params.lse.xyz, at) + i0 * params.lse.w;
    for (var r = 0u; r < rows; r++) { lse[out + r * params.lse.w] = log_sum(tops[r], totals[r], begin, i0 + r); }
  }
}
