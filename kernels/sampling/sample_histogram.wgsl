// One pass of the radix selection that limits sampling to top_k and top_p (see sample_select): a histogram of eight bits of each token's
// sortable key, over one chunk of a row: partial[r, k, b] = the sum over the tokens of chunk k whose key has b at `shift` and agrees with the
// row's prefix under `mask`, as bits of an f32; partial[r, k, 256] = the largest key of the chunk.
// A token counts 1, or with MASS its weight exp((logit − largest) / temperature), as a fixed-point number in two words of 19 bits: integer
// sums do not depend on their order. The error is at most 2^-39 a token, in units of the most probable token's weight.
// With ROWS each row has its own temperature, in the settings that sample.wgsl describes.
// One workgroup a (row, chunk). Grid: flat over rows · chunks, folded.
//#use grid
//#use sortable
//#use f32 as x
const WORKGROUP = 256u; // invocations
const MASS = false;
const ROWS = false;
struct Params {
  rows: u32, // rows of partial
  row: u32, // row of the window of x at which they start
  first: u32, // row of `limits` at which they start
  granules: u32, // a row
  chunk: u32, // granules of a chunk: at most 4096 tokens, else the fixed-point words overflow
  chunks: u32,
  shift: u32,
  mask: u32,
  limited: u32, // 1: only the tokens that `limits` allows
  inverse_temperature: f32,
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> limits: array<vec4u>; // 2 a row: (key, cut, largest key, -), (prefix, bits of the bound, -, -)
@group(0) @binding(2) var<storage, read> settings: array<u32>;
@group(0) @binding(3) var<storage, read_write> partial: array<u32>;
@group(0) @binding(4) var<uniform> params: Params;
var<workgroup> high: array<atomic<u32>, 256>; // counts, or weights in 2^-19
var<workgroup> low: array<atomic<u32>, 256>; // weights in 2^-38
var<workgroup> largest: atomic<u32>;

fn tally(v: f32, key: u32, top: f32, inverse_temperature: f32) {
  let bin = (key >> params.shift) & 0xffu;
  if (!MASS) {
    atomicAdd(&high[bin], 1u);
    return;
  }
  let w = exp(max((v - top) * inverse_temperature, -104.0)) * 524288.0;
  let whole = min(u32(w), 524288u);
  atomicAdd(&high[bin], whole);
  atomicAdd(&low[bin], min(u32((w - f32(whole)) * 524288.0 + 0.5), 524288u));
}

@compute @workgroup_size(WORKGROUP)
fn sample_histogram(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let flat = flat_group(group, groups);
  let row = flat / params.chunks;
  if (row >= params.rows) { return; }
  for (var b = lane; b < 256u; b += WORKGROUP) {
    atomicStore(&high[b], 0u);
    atomicStore(&low[b], 0u);
  }
  if (lane == 0u) { atomicStore(&largest, 0u); }
  workgroupBarrier();
  let limit = limits[2u * (params.first + row)];
  let prefix = limits[2u * (params.first + row) + 1u].x;
  let top = unsortable(limit.z);
  var inverse_temperature = params.inverse_temperature;
  if (ROWS) { inverse_temperature = bitcast<f32>(settings[4u * (params.first + row) + 2u]); }
  let start = (flat % params.chunks) * params.chunk;
  let end = min(start + params.chunk, params.granules);
  var most = 0u;
  for (var g = start + lane; g < end; g += WORKGROUP) {
    let v = unpack_x(x[(params.row + row) * params.granules + g]);
    for (var e = 0u; e < W_x; e++) {
      let key = sortable(v[e]);
      most = max(most, key);
      let allowed = params.limited == 0u || key > limit.x || (key == limit.x && g * W_x + e <= limit.y);
      if (allowed && ((key ^ prefix) & params.mask) == 0u) { tally(v[e], key, top, inverse_temperature); }
    }
  }
  atomicMax(&largest, most);
  workgroupBarrier();
  for (var b = lane; b < 256u; b += WORKGROUP) {
    var sum = f32(atomicLoad(&high[b]));
    if (MASS) { sum = (sum + f32(atomicLoad(&low[b])) * 1.9073486328125e-6) * 1.9073486328125e-6; }
    partial[flat * 257u + b] = bitcast<u32>(sum);
  }
  if (lane == 0u) { partial[flat * 257u + 256u] = atomicLoad(&largest); }
}
