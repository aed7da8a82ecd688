// Attention of a few new tokens to a cache, split over keys: for each query row (batch, token, head) and chunk of CHUNK keys the part
// of softmax(scale · q kᵀ) v of the chunk, unnormalised, with its maximum and sum; attention_decode_combine joins the parts.
// Query t sees the keys from starts[b] to length + t. One workgroup a (query row, chunk): first one key an invocation, then one vec4
// of columns an invocation. Chunks beyond the length return at once. Grid: flat over rows · chunks, folded.
//#use grid
//#use f32 as q
//#use f32 as c
//#use cached_float as cached
//#use finite
const CHUNK = 64u; // keys a workgroup, and invocations
const STARTS = false; // rows begin at starts[b] instead of 0
const PER_ROW = false; // one length a batch row instead of one for all
struct Params {
  size: vec4u, // heads of q, tokens of q, heads of the cache, D / 4
  first: u32, // batch · cache head where the window of the cache begins
  rows: u32, // query rows of the window
  capacity: u32, // keys that the cache holds
  stride: u32, // from a row of the cache to the next
  chunks: u32,
  scale: f32,
}
@group(0) @binding(0) var<storage, read> q: array<Pack_q>; // [B, Tq, Hq, D]
@group(0) @binding(1) var<storage, read> keys: array<Pack_c>; // window of [B, Hkv, capacity, a row]
@group(0) @binding(2) var<storage, read> values: array<Pack_c>;
@group(0) @binding(3) var<storage, read> lengths: array<u32>;
@group(0) @binding(4) var<storage, read> starts: array<u32>;
@group(0) @binding(5) var<storage, read_write> parts: array<vec4f>; // [B, Tq, Hq, chunks, D / 4 + 1]; the last is (maximum, sum, 1 if a key is seen)
@group(0) @binding(6) var<uniform> params: Params;
var<workgroup> scores: array<f32, CHUNK>;

// e^(s − top), NaN for a score that is NaN or +infinity; masked keys (−3e38) weigh exactly nothing, also in a chunk that is masked whole.
fn power(s: f32, top: f32) -> f32 {
  return select(select(0.0, exp(max(s - top, -104.0)), s > -1.0e38), nan_of(s), is_nan_or_top(s));
}

@compute @workgroup_size(CHUNK)
fn attention_decode(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups);
  let chunk = index % params.chunks;
  let row = index / params.chunks;
  if (row >= params.rows) { return; }
  // Rows of the window: token fastest, then head of the group, then head of the cache.
  let shared_by = params.size.x / params.size.z;
  let t = row % params.size.y;
  let head_in_group = (row / params.size.y) % shared_by;
  let local_head = row / (params.size.y * shared_by);
  let cache_head = params.first + local_head;
  let b = cache_head / params.size.z;
  let h = (cache_head % params.size.z) * shared_by + head_in_group;
  let end = min(params.capacity, lengths[select(b, 0u, !PER_ROW)] + t + 1u);
  let begin = select(0u, starts[b], STARTS);
  let origin = chunk * CHUNK;
  let width = params.size.w;
  let query = (b * params.size.y + t) * params.size.x + h;
  let out = (query * params.chunks + chunk) * (width + 1u);
  if (origin >= end) { return; }
  let key = origin + lane;
  var score = -3.0e38;
  if (key < end && key >= begin) {
    var sum = vec4f();
    let at = (local_head * params.capacity + key) * params.stride;
    for (var c = 0u; c < width; c++) { sum += unpack_q(q[query * width + c]) * key_cached(at, c, width); }
    score = ((sum.x + sum.y) + (sum.z + sum.w)) * params.scale;
  }
  scores[lane] = score;
  workgroupBarrier();
  var most = -3.0e38;
  for (var j = 0u; j < CHUNK; j++) { most = max(most, scores[j]); }
  // Keys of the chunk that are seen: j from `skip` to `count`.
  let count = min(CHUNK, end - origin);
  let skip = min(count, max(begin, origin) - origin);
  var total = 0.0;
  for (var c = lane; c < width; c += CHUNK) {
    var acc = vec4f();
    total = 0.0;
    for (var j = skip; j < count; j++) {
      let p = power(scores[j], most);
      total += p;
      acc += p * value_cached((local_head * params.capacity + origin + j) * params.stride, c, width);
    }
    parts[out + c] = acc;
  }
  if (lane == 0u) { parts[out + width] = vec4f(most, total, select(0.0, 1.0, skip < count), 0.0); }
}
