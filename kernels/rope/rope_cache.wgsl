// What a layer does to the products of new tokens before attention, in one launch: queries are rotated as in rope.wgsl, keys are rotated into their
// cache, values are copied into theirs. x [B, T, heads, D] holds the heads of the queries, then those of keys and values. One invocation rotates granule
// i of HEADS heads of one token. Tokens beyond the capacity are dropped.
// Grid: flat over ceil(batches · tokens · chunks · half / WORKGROUP) workgroups, folded.
//#use grid
//#use turns
//#use f32 as x
//#use f32 as c
const WORKGROUP = 64u; // invocations
const HEADS = 4u; // heads an invocation
const PER_ROW = false; // one length a batch row instead of one for all
struct Params {
  size: vec4u, // batches, tokens, heads of queries, granules of half a head
  src: vec4u, // strides of batch, token and head in x, and its offset; granules
  cache: vec4u, // heads of keys, capacity, stride of the batch in positions
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> positions: array<u32>; // i32 or u32 below 2^31
@group(0) @binding(2) var<storage, read> frequencies: array<vec2u>; // per i: turns a position, as 32.32 bits behind the point
@group(0) @binding(3) var<storage, read> lengths: array<u32>;
@group(0) @binding(4) var<storage, read_write> q: array<Pack_x>; // [B, T, Hq, D]
@group(0) @binding(5) var<storage, read_write> keys: array<Pack_c>; // [B, Hkv, capacity, D]
@group(0) @binding(6) var<storage, read_write> values: array<Pack_c>;
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn rope_cache(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let half = params.size.w;
  let queries = params.size.z;
  let heads = queries + 2u * params.cache.x;
  let chunks = (heads + HEADS - 1u) / HEADS;
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let i = index % half;
  let chunk = (index / half) % chunks;
  let place = index / (half * chunks);
  let token = place % params.size.y;
  let batch = place / params.size.y;
  if (batch >= params.size.x) { return; }
  let position = positions[batch * params.cache.z + token];
  var turns = vec4u();
  for (var k = 0u; k < 4u; k++) { turns[k] = turn(position, frequencies[i * 4u + k]); }
  let angle = sin_cos(turns);
  let at = lengths[select(0u, batch, PER_ROW)] + token;
  for (var head = chunk * HEADS; head < min(heads, (chunk + 1u) * HEADS); head++) {
    let src = dot(params.src, vec4u(batch, token, head, 1u)) + i;
    let u = unpack_x(x[src]);
    let v = unpack_x(x[src + half]);
    let low = u * angle.cos - v * angle.sin;
    let high = v * angle.cos + u * angle.sin;
    if (head < queries) {
      let dst = ((batch * params.size.y + token) * queries + head) * 2u * half + i;
      q[dst] = pack_x(low);
      q[dst + half] = pack_x(high);
      continue;
    }
    if (at >= params.cache.y) { continue; }
    let own = (head - queries) % params.cache.x;
    let dst = ((batch * params.cache.x + own) * params.cache.y + at) * 2u * half + i;
    if (head < queries + params.cache.x) {
      keys[dst] = pack_c(unpack_x(pack_x(low)));
      keys[dst + half] = pack_c(unpack_x(pack_x(high)));
    } else {
      values[dst] = pack_c(u);
      values[dst + half] = pack_c(v);
    }
  }
}
