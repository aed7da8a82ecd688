// stats[row] = (lse[row], delta[row]), delta = Σ_d g[row, d] · o[row, d]: what the gradient kernels need of each query row.
// Rows of g and o are read through strides. One invocation a row. Grid: flat over ceil(rows / WORKGROUP), folded.
//#use grid
//#use f32 as o
//#use f32 as g
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // in the window
  queries: u32,
  heads: u32, // query heads in the window
  granules: u32, // of a head: no constant, by which software Vulkan would write the loop out
  o: vec4u, // offset, strides of batch, head, token; granules
  g: vec4u,
  lse: vec4u, // likewise; elements
  stats: vec4u,
}
@group(0) @binding(0) var<storage, read> o: array<Pack_o>;
@group(0) @binding(1) var<storage, read> g: array<Pack_g>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn attention_delta(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.rows) { return; }
  let rest = index / params.queries;
  let at = vec4u(1u, rest / params.heads, rest % params.heads, index % params.queries);
  let o_row = dot(params.o, at);
  let g_row = dot(params.g, at);
  var product = vec4f();
  for (var c = 0u; c < params.granules; c++) { product += unpack_o(o[o_row + c]) * unpack_g(g[g_row + c]); }
  let stat = dot(params.stats, at);
  stats[stat] = lse[dot(params.lse, at)];
  stats[stat + 1u] = hsum_o(product);
}
