// o[i] = Σ_j p_ij v[j], p_ij = 2^(s_ij − lse_i), s_ij = scale · q[i]·k[j] over the keys j that query i sees; lse_i = log2 Σ_j 2^s_ij
// (scale holds log2 e). The reference variant: one invocation a query row, online softmax (Dao et al. 2022). A row without keys gives 0.
// Rows are read and written through strides in granules. Grid: flat over ceil(batch rows · heads · queries / WORKGROUP), folded.
//#use grid
//#use attention_forward
const WORKGROUP = 64u; // invocations
const MOST = 32u; // granules that a head may have

@compute @workgroup_size(WORKGROUP)
fn attention_naive(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.rows) { return; }
  let i = index % params.queries;
  let h = (index / params.queries) % params.heads;
  let b = index / (params.queries * params.heads);
  let at = vec4u(1u, b, h, i);
  let at_key = vec3u(1u, b, h / params.group);
  let q_row = dot(params.q, at);
  let k_head = dot(params.k.xyz, at_key);
  let v_head = dot(params.v.xyz, at_key);
  let own = document(b, i);
  var sum: array<vec4f, MOST>;
  var top = -3e38;
  var total = 0.0;
  let begin = first_key(b);
  let end = end_key(i);
  for (var j = begin; j < end; j++) {
    if (masked_by(DOCUMENTS) && document(b, j) != own) { continue; }
    var product = vec4f();
    for (var c = 0u; c < params.granules; c++) {
      product += unpack_q(q[q_row + c]) * unpack_k(k[k_head + j * params.k.w + c]);
    }
    let s = hsum_k(product) * params.scale;
    let higher = max(top, s);
    let shrink = exp2(max(top - higher, -126.0));
    let p = power(s, higher);
    top = higher;
    total = total * shrink + p;
    for (var c = 0u; c < params.granules; c++) {
      sum[c] = sum[c] * shrink + p * unpack_k(v[v_head + j * params.v.w + c]);
    }
  }
  let share = share_of(total, begin, i);
  let o_row = dot(params.o, at);
  for (var c = 0u; c < params.granules; c++) { o[o_row + c] = pack_o(sum[c] * share); }
  lse[dot(params.lse, at)] = log_sum(top, total, begin, i);
}
