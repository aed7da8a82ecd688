// Gradient of q: dq[i] = scale · Σ_j ds_ij k[j], ds_ij = p_ij (g[i]·v[j] − delta_i), p_ij = 2^(s_ij − lse_i), s_ij = scale · log2 e · q[i]·k[j].
// The reference variant: one invocation a query row. Layouts and grid as in attention_naive.wgsl; stats holds (lse, delta).
//#use grid
//#use f32 as q
//#use f32 as k
//#use f32 as g
//#use attention_keys
//#use attention_power
const WORKGROUP = 64u; // invocations
const MOST = 32u; // granules that a head may have
struct Params {
  rows: u32, // in the window
  queries: u32,
  keys: u32,
  heads: u32, // query heads in the window
  group: u32, // query heads to a key head
  batch: u32, // rows of the whole batch
  first: u32, // first row of the window in it
  flags: u32, // masks: CAUSAL, STARTS, DOCUMENTS
  slices: u32, // for the tiled variants
  granules: u32, // of a head
  scale: f32, // with log2 e
  slope: f32, // without
  q: vec4u, // offset, strides of batch, head, token; granules
  k: vec4u,
  v: vec4u,
  g: vec4u,
  dq: vec4u,
  stats: vec4u, // likewise; elements
}
@group(0) @binding(0) var<storage, read> q: array<Pack_q>;
@group(0) @binding(1) var<storage, read> k: array<Pack_k>;
@group(0) @binding(2) var<storage, read> v: array<Pack_k>;
@group(0) @binding(3) var<storage, read> g: array<Pack_g>;
@group(0) @binding(4) var<storage, read> stats: array<f32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read_write> dq: array<Pack_q>;
@group(0) @binding(7) var<uniform> params: Params;

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
