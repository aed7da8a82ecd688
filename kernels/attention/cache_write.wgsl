// Writes the keys and values of new tokens into their caches: cache[bh, length + t] = new[bh, t]. Tokens beyond the capacity are dropped.
// One invocation a granule. Grid: flat over ceil(granules / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use f32 as c
const WORKGROUP = 64u; // invocations
const PER_ROW = false; // one length a batch row instead of one for all
struct Params {
  granules: u32, // granules of the window
  tokens: u32,
  heads: u32,
  capacity: u32,
  width: u32, // granules of a row of D elements
  first: u32, // batch · head where the window begins
  source: u32, // granule of k and v where it begins
}
@group(0) @binding(0) var<storage, read> k: array<Pack_x>; // [B, H, T, D], or a window of it
@group(0) @binding(1) var<storage, read> v: array<Pack_x>;
@group(0) @binding(2) var<storage, read> lengths: array<u32>;
@group(0) @binding(3) var<storage, read_write> keys: array<Pack_c>; // window of [B, H, capacity, D]
@group(0) @binding(4) var<storage, read_write> values: array<Pack_c>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn cache_write(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.granules) { return; }
  let c = i % params.width;
  let t = (i / params.width) % params.tokens;
  let head = i / (params.width * params.tokens);
  let position = lengths[select((params.first + head) / params.heads, 0u, !PER_ROW)] + t;
  if (position >= params.capacity) { return; }
  let at = (head * params.capacity + position) * params.width + c;
  keys[at] = pack_c(unpack_x(k[params.source + i]));
  values[at] = pack_c(unpack_x(v[params.source + i]));
}
