// Gradient of q: dq[i] = scale · Σ_j ds_ij k[j], ds_ij = p_ij (g[i]·v[j] − delta_i), p_ij = 2^(s_ij − lse_i), s_ij = scale · log2 e · q[i]·k[j].
// The reference variant: one invocation a query row. Layouts and grid as in attention_naive.wgsl; stats holds (lse, delta).
//#use grid
//#use attention_query
const WORKGROUP = 64u; // invocations
const MOST = 32u; // granules that a head may have

@compute @workgroup_size(WORKGROUP)
fn attention_naive_query(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.rows) { return; }
  let i = index % params.queries;
  let h = (index / params.queries) % params.heads;
  let b = index / (params.queries * params.heads);
  let at = vec4u(1u, b, h, i);
  let at_key = vec3u(1u, b, h / params.group);
  let q_row = dot(params.q, at);
  let g_row = dot(params.g, at);
  let stat = dot(params.stats, at);
  let lse = stats[stat];
  let delta = stats[stat + 1u];
  let own = document(b, i);
  var sum: array<vec4f, MOST>;
  let end = end_key(i);
  for (var j = first_key(b); j < end; j++) {
    if (masked_by(DOCUMENTS) && document(b, j) != own) { continue; }
    let k_row = dot(params.k.xyz, at_key) + j * params.k.w;
    let v_row = dot(params.v.xyz, at_key) + j * params.v.w;
    var product = vec4f();
    var slope = vec4f();
    for (var c = 0u; c < params.granules; c++) {
      product += unpack_q(q[q_row + c]) * unpack_k(k[k_row + c]);
      slope += unpack_g(g[g_row + c]) * unpack_k(v[v_row + c]);
    }
    let p = power_of(hsum_k(product) * params.scale, lse);
    let ds = p * (hsum_k(slope) - delta);
    for (var c = 0u; c < params.granules; c++) { sum[c] += ds * unpack_k(k[k_row + c]); }
  }
  let dq_row = dot(params.dq, at);
  for (var c = 0u; c < params.granules; c++) { dq[dq_row + c] = pack_q(sum[c] * params.slope); }
}
