// Gradient of q, as in attention_naive_query.wgsl, in the tiles of attention_register.wgsl: ROWS queries against COLUMNS keys a step. The scores
// and the slopes g·v are computed as the scores of the forward are; their product with k as the forward's product with v.
// Grid: flat over ceil(heads · ceil(queries / ROWS) · slices · LANES / WORKGROUP), folded.
//#use grid
//#use attention_query
//#use attention_range
//#use attention_tile
//#use attention_lanes_none as s
const WORKGROUP = 64u; // invocations
const LANES = 1u; // that share a tile: 1, or the subgroup size, which is then WORKGROUP
const ROWS = 8u; // queries of a tile, a multiple of LANES
const COLUMNS = 4u; // keys of a step, a multiple of LANES and of 4
const CHUNKS = 1u; // chunks of LANES granules that a tile computes
const ROUND = 1u; // columns that a round of the sums takes, a divisor of COLUMNS

// The gradients of the scores of query i: p · (slope − delta), 0 if masked.
fn score_gradients(s: vec4f, slope: vec4f, lse: f32, delta: f32, i: u32, key: vec4u, id: vec4u, begin: u32, row_id: u32) -> vec4f {
  var seen = (key >= vec4u(begin)) & (key < vec4u(end_key(i)));
  if (masked_by(DOCUMENTS)) { seen = seen & (id == vec4u(row_id)); }
  let p = powers_of(s * params.scale, vec4f(lse));
  return select(vec4f(), p * (slope - delta), seen);
}

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
  let own_granule = slice * CHUNKS * LANES + lane;
  var q_at: array<u32, OWN>;
  rows_of(&q_at, dot(params.q.xyz, at), i0, last_query, params.q.w, lane);
  var g_at: array<u32, OWN>;
  rows_of(&g_at, dot(params.g.xyz, at), i0, last_query, params.g.w, lane);
  var row_ids: array<u32, OWN>;
  var lse: Own;
  var delta: Own;
  for (var m = 0u; m < OWN; m++) { //#unroll
    let i = min(i0 + m * LANES + lane, last_query);
    row_ids[m] = document(b, i);
    let stat = dot(params.stats, vec4u(at, i));
    lse[m] = stats[stat];
    delta[m] = stats[stat + 1u];
  }
  var sums: Sums;
  var w: Weights;
  for (var j0 = begin - begin % COLUMNS; j0 < end; j0 += COLUMNS) {
    j0 = next_tile(b, j0, end, ids);
    if (j0 >= end) { break; }
    var k_at: array<u32, HELD>;
    columns_of(&k_at, k_head, j0, last_key, params.k.w, lane);
    var v_at: array<u32, HELD>;
    columns_of(&v_at, v_head, j0, last_key, params.v.w, lane);
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
    // A loop of its own: larger bodies run out of the processor's cache of instructions.
    var slope: Scores;
    clear(&slope);
    for (var c = 0u; c < params.granules; c++) {
      var own: array<vec4f, OWN>;
      for (var m = 0u; m < OWN; m++) { //#unroll
        own[m] = unpack_g(g[g_at[m] + c]);
      }
      var held: array<vec4f, HELD>;
      for (var e = 0u; e < HELD; e++) { //#unroll
        held[e] = unpack_k(v[v_at[e] + c]);
      }
      add_scores(&slope, &own, &held);
    }
    var held_ids: array<u32, HELD>;
    ids_of(&held_ids, b, j0, last_key, lane);
    for (var t = 0u; t < QUADS; t++) { //#unroll
      let key = j0 + 4u * t + vec4u(0u, 1u, 2u, 3u);
      let id = ids_of_quad(&held_ids, t);
      for (var m = 0u; m < OWN; m++) { //#unroll
        keep_weights(&w, m, t, score_gradients(s[m * QUADS + t], slope[m * QUADS + t], lse[m], delta[m], i0 + m * LANES + lane, key, id, begin, row_ids[m]));
      }
    }
    let columns = min(COLUMNS, end - j0);
    for (var chunk = 0u; chunk < CHUNKS; chunk++) { //#unroll
      let k_own = k_head + j0 * params.k.w + granule_of(own_granule, chunk);
      for (var u = 0u; u < columns; u += ROUND) {
        var x: array<vec4f, ROUND>;
        for (var e = 0u; e < ROUND; e++) { //#unroll
          x[e] = unpack_k(k[k_own + min(u + e, columns - 1u) * params.k.w]);
        }
        add_rows(&sums, chunk, &w, u, &x);
      }
    }
  }
  multiply(&sums, params.slope);
  var results = results_of(&sums);
  // A bound that the compiler does not know, else it writes the loop out.
  let limit = CHUNKS * min(ROWS, params.queries - i0);
  let dq_at = dot(params.dq.xyz, at) + own_granule + i0 * params.dq.w;
  for (var i = 0u; i < limit; i++) {
    let granule = i % CHUNKS * LANES;
    if (own_granule + granule < params.granules) { dq[dq_at + i / CHUNKS * params.dq.w + granule] = pack_q(result_at(&results, i)); }
  }
}
