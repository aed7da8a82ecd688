// Joins the parts of attention_decode: y = Σ exp(m_c − m) acc_c / Σ exp(m_c − m) s_c over the chunks up to the length; zeros if no key
// was seen. One invocation a granule of y. Grid: flat over ceil(rows · D / 4 / WORKGROUP), folded.
//#use grid
//#use f32 as y
//#use finite
const WORKGROUP = 64u; // invocations
const CHUNK = 64u; // keys a part
const PER_ROW = false; // one length a batch row instead of one for all
struct Params {
  size: vec4u, // heads of q, tokens of q, capacity, D / 4
  rows: u32, // B · Tq · Hq
  chunks: u32,
}
@group(0) @binding(0) var<storage, read> parts: array<vec4f>;
@group(0) @binding(1) var<storage, read> lengths: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<Pack_y>; // [B, Tq, Hq, D]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn attention_decode_combine(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let width = params.size.w;
  let row = index / width;
  if (row >= params.rows) { return; }
  let c = index % width;
  let t = (row / params.size.x) % params.size.y;
  let b = row / (params.size.x * params.size.y);
  let end = min(params.size.z, lengths[select(b, 0u, !PER_ROW)] + t + 1u);
  let used = (end + CHUNK - 1u) / CHUNK;
  let base = row * params.chunks * (width + 1u);
  var most = -3.0e38;
  var seen = 0.0;
  for (var j = 0u; j < used; j++) {
    let stats = parts[base + j * (width + 1u) + width];
    most = max(most, stats.x);
    seen = max(seen, stats.z);
  }
  var sum = 0.0;
  var acc = vec4f();
  for (var j = 0u; j < used; j++) {
    let at = base + j * (width + 1u);
    let stats = parts[at + width];
    let weight = exp(max(stats.x - most, -104.0));
    sum += weight * stats.y;
    acc += weight * parts[at + c];
  }
  // Without a sum: zeros if no key is seen, NaN if all scores are −infinity.
  y[index] = pack_y(acc * select(1.0 / sum, select(0.0, nan_of(sum), seen > 0.0), sum == 0.0));
}
