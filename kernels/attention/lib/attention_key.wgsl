// Parameters and bindings of the kernels that compute the gradients of k and v; layouts as in attention_forward.
//#use f32 as q
//#use f32 as k
//#use f32 as g
//#use attention_keys
//#use attention_power
struct Params {
  rows: u32, // in the window: key rows; tiles or workgroups of the variants in tiles
  queries: u32,
  keys: u32,
  heads: u32, // key heads in the window
  group: u32, // query heads to a key head
  batch: u32, // rows of the whole batch
  first: u32, // first row of the window in it
  flags: u32, // masks: CAUSAL, STARTS, DOCUMENTS
  slices: u32, // tiles that share their rows, each with its CHUNKS
  granules: u32, // granules of a head
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
@group(0) @binding(4) var<storage, read> stats: array<f32>; // (lse, delta) of each query row
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read_write> dk: array<Pack_k>;
@group(0) @binding(7) var<storage, read_write> dv: array<Pack_k>;
@group(0) @binding(8) var<uniform> params: Params;
