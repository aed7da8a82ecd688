// Attention of one new token a batch row, from the products of queries, keys and values to the result, in one launch: what rope_cache,
// attention_decode and attention_decode_combine do one after the other, with their bits. x [B, heads, D] holds the heads of the queries, then those
// of keys and values; positions are the lengths of the cache. One workgroup owns a head of the cache of one batch row and the heads of queries that
// share it: it rotates, writes its key and value, takes SHARES chunks of CHUNK keys at a time, and joins their parts. A token beyond the capacity is dropped.
// Grid: flat over batches · heads of the cache, folded.
//#use grid
//#use turns
//#use finite
//#use f32 as x
//#use f32 as c
//#use cached_float as cached
//#use entry_float as entry
const CHUNK = 64u; // keys of a part
const LANES = 64u; // invocations of a part, at least WIDTH / 2; one key each on GPUs, several where one vector of a CPU is a workgroup
const SHARES = 1u; // chunks at a time
const WIDTH = 16u; // granules of a head, D / 4: a multiple of 2, at most CHUNK. Loops run to params.src.w, which is the same: compilers would write them out
const WORKGROUP = LANES * SHARES;
const GROUPS = 8u; // invocations of a part that find its largest score side by side
struct Params {
  size: vec4u, // batches, heads of queries, heads of the cache, capacity
  src: vec4u, // strides of batch and head in x, and its offset; granules of a head; all in granules
  chunks: u32,
  stride: u32, // from a row of the cache to the next
  scale: f32,
  per_row: u32, // 1: a length for each batch row; 0: one for all
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> frequencies: array<vec2u>; // as in rope_cache.wgsl
@group(0) @binding(2) var<storage, read> lengths: array<u32>;
@group(0) @binding(3) var<storage, read_write> keys: array<Pack_c>; // [B, Hkv, capacity, a row]
@group(0) @binding(4) var<storage, read_write> values: array<Pack_c>;
@group(0) @binding(5) var<storage, read_write> parts: array<vec4f>; // as in attention_decode.wgsl
@group(0) @binding(6) var<storage, read_write> y: array<Pack_x>; // [B, Hq, D]
@group(0) @binding(7) var<uniform> params: Params;
var<workgroup> query: array<vec4f, WIDTH>;
var<workgroup> scores: array<f32, CHUNK * SHARES>;
var<workgroup> powers: array<f32, CHUNK * SHARES>;
var<workgroup> tops: array<f32, WORKGROUP>; // largest score of each invocation
var<workgroup> group_tops: array<f32, SHARES * GROUPS>; // of LANES / GROUPS invocations
var<workgroup> peaks: array<u32, 2u * WIDTH>; // of each granule of the new key, then of the value

struct Pair {
  low: vec4f,
  high: vec4f,
}
// Granule i of both halves of a head of x, rotated.
fn rotated(head: u32, i: u32, angle: SinCos) -> Pair {
  let u = unpack_x(x[head + i]);
  let v = unpack_x(x[head + params.src.w / 2u + i]);
  return Pair(u * angle.cos - v * angle.sin, v * angle.cos + u * angle.sin);
}

// Scale of a group of granules of the new key (from 0) or value (from the width of a head).
fn scale_of(part: u32, group: u32) -> u32 {
  if (!HAS_SCALES_entry) { return 0u; }
  var peak = 0u;
  for (var c = group * GROUP_entry; c < min((group + 1u) * GROUP_entry, params.src.w); c++) { peak = max(peak, peaks[part + c]); }
  return scale_entry(peak);
}

// As in attention_decode.wgsl.
fn power(s: f32, top: f32) -> f32 {
  return select(select(0.0, exp(max(s - top, -104.0)), s > -1.0e38), nan_of(s), is_nan_or_top(s));
}

@compute @workgroup_size(WORKGROUP)
fn rope_attention(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
  let cache_head = flat_group(group, groups);
  if (cache_head >= params.size.x * params.size.z) { return; }
  let width = params.src.w;
  let half = width / 2u;
  let capacity = params.size.w;
  let shared_by = params.size.y / params.size.z;
  let b = cache_head / params.size.z;
  let own = cache_head % params.size.z;
  let length = lengths[b * params.per_row];
  let end = min(capacity, length + 1u);
  let first = cache_head * capacity * params.stride;
  let source = b * params.src.x + params.src.z;
  let at = first + length * params.stride;
  var angle: SinCos;
  var key: Pair;
  var value: Pair;
  if (invocation < half) {
    var turns = vec4u();
    for (var k = 0u; k < 4u; k++) { turns[k] = turn(length, frequencies[invocation * 4u + k]); }
    angle = sin_cos(turns);
    let turned = rotated(source + (params.size.y + own) * params.src.y, invocation, angle);
    key = Pair(unpack_x(pack_x(turned.low)), unpack_x(pack_x(turned.high)));
    let value_at = source + (params.size.y + params.size.z + own) * params.src.y + invocation;
    value = Pair(unpack_x(x[value_at]), unpack_x(x[value_at + half]));
    if (HAS_SCALES_entry) {
      peaks[invocation] = peak_entry(key.low);
      peaks[half + invocation] = peak_entry(key.high);
      peaks[width + invocation] = peak_entry(value.low);
      peaks[width + half + invocation] = peak_entry(value.high);
    }
  }
  if (HAS_SCALES_entry) { workgroupBarrier(); }
  if (invocation < half && length < capacity) {
    let group_low = invocation / GROUP_entry;
    let group_high = (half + invocation) / GROUP_entry;
    keys[at + invocation] = pack_entry(key.low, scale_of(0u, group_low));
    keys[at + half + invocation] = pack_entry(key.high, scale_of(0u, group_high));
    values[at + invocation] = pack_entry(value.low, scale_of(width, group_low));
    values[at + half + invocation] = pack_entry(value.high, scale_of(width, group_high));
    if (HAS_SCALES_entry && invocation * SPAN_entry < width) {
      let group = 2u * invocation;
      keys[at + width + invocation] = pair_entry(scale_of(0u, group), scale_of(0u, group + 1u));
      values[at + width + invocation] = pair_entry(scale_of(width, group), scale_of(width, group + 1u));
    }
  }
  storageBarrier();
  let lane = invocation % LANES;
  let share = select(invocation / LANES, 0u, SHARES == 1u);
  let used = (end + CHUNK - 1u) / CHUNK;
  for (var h = 0u; h < shared_by; h++) {
    let row = b * params.size.y + own * shared_by + h;
    let base = row * params.chunks * (width + 1u);
    if (invocation < half) {
      let q = rotated(source + (own * shared_by + h) * params.src.y, invocation, angle);
      query[invocation] = unpack_x(pack_x(q.low));
      query[half + invocation] = unpack_x(pack_x(q.high));
    }
    workgroupBarrier();
    for (var round = 0u; round < used; round += SHARES) {
      let chunk = round + share;
      let count = min(CHUNK, max(end, chunk * CHUNK) - chunk * CHUNK);
      var top = -3.0e38;
      for (var k = lane; k < count; k += LANES) {
        let row_at = first + (chunk * CHUNK + k) * params.stride;
        var sum = vec4f();
        for (var c = 0u; c < width; c++) { sum += query[c] * key_cached(row_at, c, width); }
        let score = ((sum.x + sum.y) + (sum.z + sum.w)) * params.scale;
        scores[share * CHUNK + k] = score;
        top = max(top, score);
      }
      tops[invocation] = top;
      workgroupBarrier();
      if (LANES > GROUPS) {
        if (lane < GROUPS) {
          for (var j = 1u; j < LANES / GROUPS; j++) { top = max(top, tops[share * LANES + lane + j * GROUPS]); }
          group_tops[share * GROUPS + lane] = top;
        }
        workgroupBarrier();
      }
      var most = -3.0e38;
      for (var j = 0u; j < GROUPS; j++) {
        if (LANES > GROUPS) { most = max(most, group_tops[share * GROUPS + j]); } else { most = max(most, tops[share * LANES + j]); }
      }
      for (var k = lane; k < count; k += LANES) { powers[share * CHUNK + k] = power(scores[share * CHUNK + k], most); }
      workgroupBarrier();
      for (var c = lane; c < width && count > 0u; c += LANES) {
        var acc = vec4f();
        var total = 0.0;
        for (var j = 0u; j < count; j++) {
          let p = powers[share * CHUNK + j];
          total += p;
          acc += p * value_cached(first + (chunk * CHUNK + j) * params.stride, c, width);
        }
        let out = base + chunk * (width + 1u);
        parts[out + c] = acc;
        if (c == 0u) { parts[out + width] = vec4f(most, total, 1.0, 0.0); }
      }
    }
    storageBarrier();
    for (var c = invocation; c < width; c += WORKGROUP) {
      var most = -3.0e38;
      for (var j = 0u; j < used; j++) { most = max(most, parts[base + j * (width + 1u) + width].x); }
      var sum = 0.0;
      var acc = vec4f();
      for (var j = 0u; j < used; j++) {
        let out = base + j * (width + 1u);
        let stats = parts[out + width];
        let weight = exp(max(stats.x - most, -104.0));
        sum += weight * stats.y;
        acc += weight * parts[out + c];
      }
      // Without a sum all scores are −infinity.
      y[row * width + c] = pack_x(acc * select(1.0 / sum, nan_of(sum), sum == 0.0));
    }
    workgroupBarrier();
  }
}
