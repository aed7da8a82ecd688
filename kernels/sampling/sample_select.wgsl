// The other half of a pass of the radix selection (see sample_histogram): sums the histograms of a row's chunks, in their order, and finds
// the bin in which the sum from the largest key downwards reaches the bound. Its eight bits join the row's prefix; after the last pass the
// prefix is the key of the last token that may be sampled. Of equal keys the lowest indices stay: limits[r] = (key, cut) allows the tokens
// with keys above `key`, and those of that key up to index `cut`.
// With ROWS each row has its own temperature and top_p, in the settings that sample.wgsl describes; a top_p of 1 leaves the limits as they are.
// One workgroup a row. Grid: flat over rows, folded.
//#use grid
//#use sortable
//#use f32 as x
const WORKGROUP = 256u; // invocations
const ROWS = false;
struct Params {
  rows: u32, // rows of partial
  row: u32, // row of the window of x at which they start
  first: u32, // row of the limits at which they start
  granules: u32, // a row
  chunk: u32, // granules of a chunk
  chunks: u32,
  shift: u32,
  step: u32, // one of the steps below
  top_k: u32, // 0: all
  top_p: f32,
  inverse_temperature: f32,
}
// The steps: four passes for top_k (without it only the first, for the largest key), then four for top_p of what it left.
const K_FIRST = 0u;
const K_NEXT = 1u;
const K_LAST = 2u;
const P_FIRST = 3u; // the bound is top_p of the sum of all bins
const P_NEXT = 4u;
const P_LAST = 5u; // bins are counts of tokens of one key
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> partial: array<u32>;
@group(0) @binding(2) var<storage, read> before: array<vec4u>; // limits: 2 a row: (key, cut, largest key, -), (prefix, bits of the bound, -, -)
@group(0) @binding(3) var<storage, read> settings: array<u32>;
@group(0) @binding(4) var<storage, read_write> after: array<vec4u>;
@group(0) @binding(5) var<uniform> params: Params;
const BINS = 256u;
var<workgroup> sums: array<f32, BINS>;
var<workgroup> counts: array<u32, WORKGROUP>;

fn part(row: u32, chunk: u32, bin: u32) -> u32 { return partial[(row * params.chunks + chunk) * 257u + bin]; }

// 1 / temperature (x) and top_p (y) of a row.
fn settings_of(row: u32) -> vec2f {
  var own = vec2f(params.inverse_temperature, params.top_p);
  if (ROWS) {
    let at = 4u * (params.first + row);
    own = vec2f(bitcast<f32>(settings[at + 2u]), bitcast<f32>(settings[at + 3u]));
  }
  return own;
}

fn weight(key: u32, top: f32, inverse_temperature: f32) -> f32 { return exp(max((unsortable(key) - top) * inverse_temperature, -104.0)); }

// How many tokens of the granules start … end − 1 have `key` (x), and the index of the rank-th of them, counted from 1 (y).
fn equal_keys(row: u32, start: u32, end: u32, key: u32, rank: u32) -> vec2u {
  var found = vec2u();
  for (var g = start; g < end; g++) {
    let v = unpack_x(x[(params.row + row) * params.granules + g]);
    for (var e = 0u; e < W_x; e++) {
      if (sortable(v[e]) != key) { continue; }
      found.x++;
      if (found.x == rank) { found.y = g * W_x + e; }
    }
  }
  return found;
}

struct Search {
  bound: f32, // what the bins must reach
  bin: u32,
  above: f32, // sum of the bins above it
}

// Every invocation finds the same bin. If rounding keeps all bins from reaching the bound it is the last that is not empty.
fn find(bound_before: u32, top_p: f32) -> Search {
  var s = Search(bitcast<f32>(bound_before), 0u, 0.0);
  if (params.step == K_FIRST) { s.bound = f32(params.top_k); }
  if (params.step == P_FIRST) {
    var total = 0.0;
    for (var b = 0u; b < BINS; b++) { total += sums[b]; }
    s.bound = top_p * total * 0.999999; // so that rounding does not keep a set that reaches top_p exactly below the bound
  }
  var sum = 0.0;
  for (var b = BINS; b > 0u && sum < s.bound; b--) {
    let one = sums[b - 1u];
    if (one > 0.0) {
      s.bin = b - 1u;
      s.above = sum;
    }
    sum += one;
  }
  return s;
}

@compute @workgroup_size(WORKGROUP)
fn sample_select(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups);
  if (row >= params.rows) { return; }
  let at = 2u * (params.first + row);
  let own = settings_of(row);
  let is_open = ROWS && params.step >= P_FIRST && own.y >= 1.0;
  var limit = before[at];
  let state = before[at + 1u];
  if (params.step == K_FIRST) {
    limit = vec4u(0u, 0xffffffffu, 0u, 0u);
    for (var c = 0u; c < params.chunks; c++) { limit.z = max(limit.z, part(row, c, 256u)); }
  }
  var prefix = select(state.x, 0u, params.step == K_FIRST || params.step == P_FIRST);
  let top = unsortable(limit.z);
  for (var b = lane; b < BINS; b += WORKGROUP) {
    var sum = 0.0;
    for (var c = 0u; c < params.chunks; c++) { sum += bitcast<f32>(part(row, c, b)); }
    if (params.step == P_LAST) { sum *= weight(prefix | b, top, own.x); }
    sums[b] = sum;
  }
  workgroupBarrier();
  let s = find(state.y, own.y);
  prefix |= s.bin << params.shift;

  // A tie is cut after its rank-th token: which chunk that is in, then, of its invocations' runs, which run.
  var chunk = 0u;
  var rank = 0u;
  var is_cut = false;
  if ((params.step == K_LAST || params.step == P_LAST) && !is_open) {
    var equal = 0u;
    for (var c = 0u; c < params.chunks; c++) { equal += u32(bitcast<f32>(part(row, c, s.bin))); }
    rank = u32(max(1.0, s.bound - s.above));
    if (params.step == P_LAST) { rank = u32(clamp(ceil((s.bound - s.above) / max(weight(prefix, top, own.x), 1e-38)), 1.0, 4e9)); }
    is_cut = rank < equal;
    if (prefix != limit.x) { limit.y = 0xffffffffu; }
    limit.x = prefix;
  }
  if (is_cut) {
    while (chunk + 1u < params.chunks) {
      let equal = u32(bitcast<f32>(part(row, chunk, s.bin)));
      if (rank <= equal) { break; }
      rank -= equal;
      chunk++;
    }
  }
  let run = (params.chunk + WORKGROUP - 1u) / WORKGROUP;
  let end_of_chunk = min((chunk + 1u) * params.chunk, params.granules);
  let start = min(chunk * params.chunk + lane * run, end_of_chunk);
  let end = min(start + run, end_of_chunk);
  counts[lane] = 0u;
  if (is_cut) { counts[lane] = equal_keys(row, start, end, prefix, 0u).x; }
  workgroupBarrier();
  var earlier = 0u;
  if (is_cut) { for (var l = 0u; l < lane; l++) { earlier += counts[l]; } }
  let is_mine = select(lane == 0u, earlier < rank && rank <= earlier + counts[lane], is_cut);
  if (is_mine) {
    if (is_cut) { limit.y = equal_keys(row, start, end, prefix, rank - earlier).y; }
    after[at] = limit;
    after[at + 1u] = vec4u(prefix, bitcast<u32>(s.bound - s.above), 0u, 0u);
  }
}
