// Gradients of k and v: dk[j] = scale · Σ_i ds_ij q[i], dv[j] = Σ_i p_ij g[i] over the queries i of all heads of the group that see key j;
// p and ds as in attention_naive_query.wgsl. The reference variant: one invocation a key row of a key head.
// Grid: flat over ceil(batch rows · key heads · keys / WORKGROUP), folded.
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
  heads: u32, // key heads in the window
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
  dk: vec4u,
  dv: vec4u,
  stats: vec4u, // likewise; elements
}
@group(0) @binding(0) var<storage, read> q: array<Pack_q>;
@group(0) @binding(1) var<storage, read> k: array<Pack_k>;
@group(0) @binding(2) var<storage, read> v: array<Pack_k>;
@group(0) @binding(3) var<storage, read> g: array<Pack_g>;
@group(0) @binding(4) var<storage, read> stats: array<f32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read_write> dk: array<Pack_k>;
@group(0) @binding(7) var<storage, read_write> dv: array<Pack_k>;
@group(0) @binding(8) var<uniform> params: Params;

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
