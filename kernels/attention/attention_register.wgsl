// The sums of attention_naive.wgsl in tiles of ROWS queries, without workgroup memory. LANES invocations (with library attention_lanes_subgroup, a
// subgroup) take COLUMNS keys a step: each scores the keys, which the lanes broadcast, against its queries; then it owns a granule of each
// chunk of LANES granules of the result, and the probabilities are broadcast. With LANES = 1 an invocation is alone with its tile.
// Grid: flat over ceil(heads · ceil(queries / ROWS) · slices · LANES / WORKGROUP), folded; light and heavy tiles of a causal head alternate.
//#use grid
//#use attention_forward
//#use attention_range
//#use attention_tile
//#use attention_lanes_none as s
const WORKGROUP = 64u; // invocations
const LANES = 1u; // that share a tile: 1, or the subgroup size, which is then WORKGROUP
const ROWS = 8u; // queries of a tile, a multiple of LANES
const COLUMNS = 4u; // keys of a step, a multiple of LANES and of 4
const CHUNKS = 1u; // chunks of LANES granules that a tile computes
const ROUND = 1u; // columns that a round of the sums takes, a divisor of COLUMNS

// Masked scores of query i: scaled, or −3e38.
fn masked(s: vec4f, i: u32, key: vec4u, id: vec4u, begin: u32, row_id: u32) -> vec4f {
  var seen = (key >= vec4u(begin)) & (key < vec4u(end_key(i)));
  if (masked_by(DOCUMENTS)) { seen = seen & (id == vec4u(row_id)); }
  return select(vec4f(-3e38), s * params.scale, seen);
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
  let own_granule = slice * CHUNKS * LANES + lane;
  var q_at: array<u32, OWN>;
  rows_of(&q_at, dot(params.q.xyz, at), i0, last_query, params.q.w, lane);
  var row_ids: array<u32, OWN>;
  var top: Own;
  var total: Own;
  for (var m = 0u; m < OWN; m++) { //#unroll
    row_ids[m] = document(b, min(i0 + m * LANES + lane, last_query));
    top[m] = -3e38;
  }
  var sums: Sums;
  var w: Weights;
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    var k_at: array<u32, HELD>;
    columns_of(&k_at, k_head, j0, last_key, params.k.w, lane);
    var s: Scores;
    clear(&s);
    for (var c = 0u; c < params.granules; c++) {
      var own: array<vec4f, OWN>;
      for (var m = 0u; m < OWN; m++) { //#unroll
        own[m] = unpack_q(q[q_at[m] + c]);
      }
      var held: array<vec4f, HELD>;
      for (var e = 0u; e < HELD; e++) { //#unroll
        held[e] = unpack_k(k[k_at[e] + c]);
      }
      add_scores(&s, &own, &held);
    }
    var held_ids: array<u32, HELD>;
    ids_of(&held_ids, b, j0, last_key, lane);
    var shrink: Own;
    for (var m = 0u; m < OWN; m++) { //#unroll
      let i = i0 + m * LANES + lane;
      var high = top[m];
      for (var t = 0u; t < QUADS; t++) { //#unroll
        let x = masked(s[m * QUADS + t], i, j0 + 4u * t + vec4u(0u, 1u, 2u, 3u), ids_of_quad(&held_ids, t), begin, row_ids[m]);
        s[m * QUADS + t] = x;
        high = max(high, hmax4(x));
      }
      shrink[m] = exp2(max(top[m] - high, -126.0));
      top[m] = high;
      var sum = vec4f();
      for (var t = 0u; t < QUADS; t++) { //#unroll
        let p = powers(s[m * QUADS + t], high);
        sum += p;
        keep_weights(&w, m, t, p);
      }
      total[m] = total[m] * shrink[m] + ((sum.x + sum.y) + (sum.z + sum.w));
    }
    multiply_rows(&sums, &shrink);
    let columns = min(COLUMNS, end - j0);
    for (var chunk = 0u; chunk < CHUNKS; chunk++) { //#unroll
      let v_own = v_head + j0 * params.v.w + granule_of(own_granule, chunk);
      for (var u = 0u; u < columns_in(slice, chunk, columns); u += ROUND) {
        var x: array<vec4f, ROUND>;
        for (var e = 0u; e < ROUND; e++) { //#unroll
          x[e] = unpack_k(v[v_own + min(u + e, columns - 1u) * params.v.w]);
        }
        add_rows(&sums, chunk, &w, u, &x);
      }
    }
  }
  var share: Own;
  for (var m = 0u; m < OWN; m++) { //#unroll
    share[m] = share_of(total[m], begin, i0 + m * LANES + lane);
  }
  multiply_rows(&sums, &share);
  var results = results_of(&sums);
  // A bound that the compiler does not know, else it writes the loop out.
  let limit = CHUNKS * min(ROWS, params.queries - i0);
  let o_at = dot(params.o.xyz, at) + own_granule + i0 * params.o.w;
  for (var i = 0u; i < limit; i++) {
    let granule = i % CHUNKS * LANES;
    if (own_granule + granule < params.granules) { o[o_at + i / CHUNKS * params.o.w + granule] = pack_o(result_at(&results, i)); }
  }
  if (slice != 0u) { return; }
  for (var m = 0u; m < OWN; m++) { //#unroll
    let i = i0 + m * LANES + lane;
    if (i < params.queries) { lse[dot(params.lse.xyz, at) + i * params.lse.w] = log_sum(top[m], total[m], begin, i); }
  }
}
