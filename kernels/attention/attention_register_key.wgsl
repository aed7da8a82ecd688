// Gradients of k and v, as in attention_naive_key.wgsl, in tiles of ROWS keys against COLUMNS queries a step: the tiles of
// attention_register.wgsl with keys as rows and queries as columns, over all query heads of the group.
// Grid: flat over ceil(key heads · ceil(keys / ROWS) · slices · LANES / WORKGROUP), folded.
//#use grid
//#use attention_key
//#use attention_range
//#use attention_tile
//#use attention_lanes_none as s
const WORKGROUP = 64u; // invocations
const LANES = 1u; // that share a tile: 1, or the subgroup size, which is then WORKGROUP
const ROWS = 8u; // keys of a tile, a multiple of LANES
const COLUMNS = 4u; // queries of a step, a multiple of LANES and of 4
const CHUNKS = 1u; // chunks of LANES granules that a tile computes
const ROUND = 1u; // columns that a round of the sums takes, a divisor of COLUMNS

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
  let own_granule = slice * CHUNKS * LANES + lane;
  var k_at: array<u32, OWN>;
  rows_of(&k_at, dot(params.k.xyz, at_key), j0, last_key, params.k.w, lane);
  var v_at: array<u32, OWN>;
  rows_of(&v_at, dot(params.v.xyz, at_key), j0, last_key, params.v.w, lane);
  var row_ids: array<u32, OWN>;
  for (var m = 0u; m < OWN; m++) { //#unroll
    row_ids[m] = document(b, min(j0 + m * LANES + lane, last_key));
  }
  var dk_sums: Sums;
  var dv_sums: Sums;
  var w: Weights;
  var w_2: Weights;
  for (var e = 0u; e < params.group; e++) {
    let at = vec3u(1u, b, h * params.group + e);
    let q_head = dot(params.q.xyz, at);
    let g_head = dot(params.g.xyz, at);
    let stats_head = dot(params.stats.xyz, at);
    for (var i0 = first - first % COLUMNS; i0 < end; i0 += COLUMNS) {
      i0 = next_tile(b, i0, end, ids);
      if (i0 >= end) { break; }
      var q_at: array<u32, HELD>;
      columns_of(&q_at, q_head, i0, last_query, params.q.w, lane);
      var g_at: array<u32, HELD>;
      columns_of(&g_at, g_head, i0, last_query, params.g.w, lane);
      var s: Scores;
      clear(&s);
      for (var c = 0u; c < params.granules; c++) {
        var own: array<vec4f, OWN>;
        for (var m = 0u; m < OWN; m++) { //#unroll
          own[m] = unpack_k(k[k_at[m] + c]);
        }
        var held: array<vec4f, HELD>;
        for (var f = 0u; f < HELD; f++) { //#unroll
          held[f] = unpack_q(q[q_at[f] + c]);
        }
        add_scores(&s, &own, &held);
      }
      // A loop of its own: larger bodies run out of the processor's cache of instructions.
      var slope: Scores;
      clear(&slope);
      for (var c = 0u; c < params.granules; c++) {
        var own: array<vec4f, OWN>;
        for (var m = 0u; m < OWN; m++) { //#unroll
          own[m] = unpack_k(v[v_at[m] + c]);
        }
        var held: array<vec4f, HELD>;
        for (var f = 0u; f < HELD; f++) { //#unroll
          held[f] = unpack_g(g[g_at[f] + c]);
        }
        add_scores(&slope, &own, &held);
      }
      var held_ids: array<u32, HELD>;
      ids_of(&held_ids, b, i0, last_query, lane);
      var held_lse: array<f32, HELD>;
      var held_delta: array<f32, HELD>;
      for (var f = 0u; f < HELD; f++) { //#unroll
        let query = min(i0 + f * LANES + lane, last_query);
        held_lse[f] = stats[stats_head + query * params.stats.w];
        held_delta[f] = stats[stats_head + query * params.stats.w + 1u];
      }
      for (var t = 0u; t < QUADS; t++) { //#unroll
        let query = i0 + 4u * t + vec4u(0u, 1u, 2u, 3u);
        let id = ids_of_quad(&held_ids, t);
        let lse = quad_of(&held_lse, t);
        let delta = quad_of(&held_delta, t);
        let key_end = select(vec4u(), vec4u(end_key(query.x), end_key(query.y), end_key(query.z), end_key(query.w)), query < vec4u(params.queries));
        for (var m = 0u; m < OWN; m++) { //#unroll
          let j = j0 + m * LANES + lane;
          var seen = (vec4u(j) < key_end) & vec4<bool>(j >= begin);
          if (masked_by(DOCUMENTS)) { seen = seen & (id == vec4u(row_ids[m])); }
          let p = select(vec4f(), powers_of(s[m * QUADS + t] * params.scale, lse), seen);
          keep_weights(&w, m, t, p);
          keep_weights(&w_2, m, t, p * (slope[m * QUADS + t] - delta));
        }
      }
      let columns = min(COLUMNS, params.queries - i0);
      for (var chunk = 0u; chunk < CHUNKS; chunk++) { //#unroll
        let g_own = g_head + i0 * params.g.w + granule_of(own_granule, chunk);
        for (var u = 0u; u < columns; u += ROUND) {
          var x: array<vec4f, ROUND>;
          for (var e = 0u; e < ROUND; e++) { //#unroll
            x[e] = unpack_g(g[g_own + min(u + e, columns - 1u) * params.g.w]);
          }
          add_rows(&dv_sums, chunk, &w, u, &x);
        }
      }
      for (var chunk = 0u; chunk < CHUNKS; chunk++) { //#unroll
        let q_own = q_head + i0 * params.q.w + granule_of(own_granule, chunk);
        for (var u = 0u; u < columns; u += ROUND) {
          var x: array<vec4f, ROUND>;
          for (var e = 0u; e < ROUND; e++) { //#unroll
            x[e] = unpack_q(q[q_own + min(u + e, columns - 1u) * params.q.w]);
          }
          add_rows(&dk_sums, chunk, &w_2, u, &x);
        }
      }
    }
  }
  multiply(&dk_sums, params.slope);
  var dk_results = results_of(&dk_sums);
  var dv_results = results_of(&dv_sums);
  // A bound that the compiler does not know, else it writes the loop out.
  let limit = CHUNKS * min(ROWS, params.keys - j0);
  let dk_at = dot(params.dk.xyz, at_key) + own_granule + j0 * params.dk.w;
  let dv_at = dot(params.dv.xyz, at_key) + own_granule + j0 * params.dv.w;
  for (var i = 0u; i < limit; i++) {
    let granule = i % CHUNKS * LANES;
    if (own_granule + granule < params.granules) {
      dk[dk_at + i / CHUNKS * params.dk.w + granule] = pack_k(result_at(&dk_results, i));
      dv[dv_at + i / CHUNKS * params.dv.w + granule] = pack_k(result_at(&dv_results, i));
    }
  }
}
