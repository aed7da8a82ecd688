// Writes the keys and values of new tokens into their caches: cache[bh, length + t] = new[bh, t]. Tokens beyond the capacity are dropped.
// One invocation a span: a granule, or those whose scales share a word. Grid: flat over ceil(spans / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use f32 as c
//#use entry_float as entry
const WORKGROUP = 64u; // invocations
const PER_ROW = false; // one length a batch row instead of one for all
struct Params {
  spans: u32, // of the window
  tokens: u32,
  heads: u32,
  capacity: u32,
  width: u32, // granules of a row of D elements
  stride: u32, // from a row of the cache to the next
  first: u32, // batch · head where the window begins
  source: u32, // granule of k and v where it begins
}
@group(0) @binding(0) var<storage, read> k: array<Pack_x>; // [B, H, T, D], or a window of it
@group(0) @binding(1) var<storage, read> v: array<Pack_x>;
@group(0) @binding(2) var<storage, read> lengths: array<u32>;
@group(0) @binding(3) var<storage, read_write> keys: array<Pack_c>; // window of [B, H, capacity, a row]
@group(0) @binding(4) var<storage, read_write> values: array<Pack_c>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn cache_write(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.spans) { return; }
  let spans = (params.width + SPAN_entry - 1u) / SPAN_entry; // of a row
  let begin = (i % spans) * SPAN_entry;
  let end = min(params.width, begin + SPAN_entry);
  let t = (i / spans) % params.tokens;
  let head = i / (spans * params.tokens);
  let position = lengths[select((params.first + head) / params.heads, 0u, !PER_ROW)] + t;
  if (position >= params.capacity) { return; }
  let src = params.source + (i / spans) * params.width;
  let dst = (head * params.capacity + position) * params.stride;
  // Scales of the key and the value in the two groups of the span; an array of them would lie in memory on NVIDIA.
  var low = vec2u();
  var high = vec2u();
  if (HAS_SCALES_entry) {
    for (var c = begin; c < end; c++) {
      let peak = vec2u(peak_entry(unpack_x(k[src + c])), peak_entry(unpack_x(v[src + c])));
      if (c - begin < GROUP_entry) { low = max(low, peak); } else { high = max(high, peak); }
    }
    low = vec2u(scale_entry(low.x), scale_entry(low.y));
    high = vec2u(scale_entry(high.x), scale_entry(high.y));
    keys[dst + params.width + begin / SPAN_entry] = pair_entry(low.x, high.x);
    values[dst + params.width + begin / SPAN_entry] = pair_entry(low.y, high.y);
  }
  for (var c = begin; c < end; c++) {
    let scale = select(high, low, c - begin < GROUP_entry);
    keys[dst + c] = pack_entry(unpack_x(k[src + c]), scale.x);
    values[dst + c] = pack_entry(unpack_x(v[src + c]), scale.y);
  }
}
