// Gradients of k and v: dk[j] = scale · Σ_i ds_ij q[i], dv[j] = Σ_i p_ij g[i] over the queries i of all heads of the group that see key j;
// p and ds as in attention_naive_query.wgsl. The reference variant: one invocation a key row of a key head.
// Grid: flat over ceil(batch rows · key heads · keys / WORKGROUP), folded.
//#use grid
//#use attention_key
const WORKGROUP = 64u; // invocations
const MOST = 32u; // granules that a head may have

@compute @workgroup_size(WORKGROUP)
fn attention_naive_key(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.rows) { return; }
  let j = index % params.keys;
  let h = (index / params.keys) % params.heads;
  let b = index / (params.keys * params.heads);
  let at_key = vec4u(1u, b, h, j);
  let k_row = dot(params.k, at_key);
  let v_row = dot(params.v, at_key);
  let own = document(b, j);
  var sum_k: array<vec4f, MOST>;
  var sum_v: array<vec4f, MOST>;
  let seen = j >= first_key(b);
  for (var e = 0u; e < params.group; e++) {
    for (var i = first_query(j); i < params.queries; i++) {
      if (!seen || (masked_by(DOCUMENTS) && document(b, i) != own)) { continue; }
      let at = vec4u(1u, b, h * params.group + e, i);
      let q_row = dot(params.q, at);
      let g_row = dot(params.g, at);
      let stat = dot(params.stats, at);
      var product = vec4f();
      var slope = vec4f();
      for (var c = 0u; c < params.granules; c++) {
        product += unpack_q(q[q_row + c]) * unpack_k(k[k_row + c]);
        slope += unpack_g(g[g_row + c]) * unpack_k(v[v_row + c]);
      }
      let p = power_of(hsum_k(product) * params.scale, stats[stat]);
      let ds = p * (hsum_k(slope) - stats[stat + 1u]);
      for (var c = 0u; c < params.granules; c++) {
        sum_k[c] += ds * unpack_q(q[q_row + c]);
        sum_v[c] += p * unpack_g(g[g_row + c]);
      }
    }
  }
  let dk_row = dot(params.dk, at_key);
  let dv_row = dot(params.dv, at_key);
  for (var c = 0u; c < params.granules; c++) {
    dk[dk_row + c] = pack_k(sum_k[c] * params.slope);
    dv[dv_row + c] = pack_k(sum_v[c]);
  }
}
