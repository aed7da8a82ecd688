// Which tokens of a row may be sampled, as a place in the order (logit descending, index ascending): threshold[r] = (key, cut) allows the
// tokens whose sortable key is above `key`, and those of that key up to index `cut`. First the top_k tokens, then of these the fewest whose
// probabilities at the temperature reach top_p of their sum.
// One workgroup a row. Each search fixes a 32-bit number two bits a pass: a pass tallies three candidates over the row, each invocation
// every WORKGROUP-th granule, then a tree: the order of every sum is fixed. Grid: flat over rows, folded.
//#use grid
//#use sortable
//#use f32 as x
const WORKGROUP = 256u; // invocations, a power of two
struct Params {
  rows: u32, // in the window
  first: u32, // row of `threshold` at which the window starts
  granules: u32, // a row
  top_k: u32, // 0: all
  top_p: f32, // 1 and above: all
  inverse_temperature: f32,
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> threshold: array<vec2u>;
@group(0) @binding(2) var<uniform> params: Params;
var<workgroup> tree: array<vec4f, WORKGROUP>;

// What a tally counts of the tokens allowed by (floor_key, cut).
const KEYS = 0u; // tokens with a key ≥ the candidate
const MASS = 1u; // their probability mass, in units of the most probable token's
const PLACES = 2u; // tokens with the key floor_key at an index below the candidate
struct Query {
  kind: u32,
  floor_key: u32,
  cut: u32,
  top: f32, // the row's largest logit
}

fn weigh(q: Query, v: f32, index: u32, candidates: vec4u) -> vec4f {
  let key = sortable(v);
  if (q.kind == PLACES) { return select(vec4f(), vec4f(1.0), (vec4u(index) < candidates) & vec4<bool>(key == q.floor_key)); }
  if (key < q.floor_key || (key == q.floor_key && index > q.cut)) { return vec4f(); }
  var w = 1.0;
  if (q.kind == MASS) { w = exp(max((v - q.top) * params.inverse_temperature, -104.0)); }
  return select(vec4f(), vec4f(w), vec4u(key) >= candidates);
}

// Sums over the row for four candidates; the same in every invocation.
fn tally(q: Query, candidates: vec4u, row: u32, lane: u32) -> vec4f {
  var sum = vec4f();
  for (var g = lane; g < params.granules; g += WORKGROUP) {
    let v = unpack_x(x[row * params.granules + g]);
    for (var e = 0u; e < W_x; e++) { sum += weigh(q, v[e], g * W_x + e, candidates); }
  }
  tree[lane] = sum;
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { tree[lane] += tree[lane + half]; }
  }
  let total = workgroupUniformLoad(&tree[0]);
  workgroupBarrier();
  return total;
}

// The steps. A search finds the largest number whose tally is at least `least` (KEYS, MASS) or below it (PLACES). They share one tally in
// one loop: written out one after the other, software Vulkan takes half a minute to compile them.
const K_KEY = 0u; // search: the top_k-th largest key
const K_TIES = 1u; // how many keys are above it, how many equal
const K_CUT = 2u; // search: the index of the last one to keep among equals
const P_TOP = 3u; // search: the largest key
const P_TOTAL = 4u; // the mass of all
const P_KEY = 5u; // search: the key at which the mass reaches top_p
const P_ABOVE = 6u; // the mass of the keys above it
const P_TIES = 7u;
const P_CUT = 8u;
const DONE = 9u;

@compute @workgroup_size(WORKGROUP)
fn sample_threshold(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups);
  if (row >= params.rows) { return; }
  let after_k = select(DONE, P_TOP, params.top_p < 1.0);
  var q = Query(KEYS, 0u, 0xffffffffu, 0.0);
  var step = select(after_k, K_KEY, params.top_k > 0u);
  var least = select(1.0, f32(params.top_k), params.top_k > 0u);
  var found = 0u;
  var shift = 32u;
  var key = 0u;
  var above = 0.0;
  while (step != DONE) {
    let searching = step == K_KEY || step == K_CUT || step == P_TOP || step == P_KEY || step == P_CUT;
    if (searching) { shift -= 2u; }
    let unit = select(1u, 1u << (shift & 31u), searching);
    let s = tally(q, select(vec4u(key, key + 1u, 0u, 0u), vec4u(found) + unit * vec4u(1u, 2u, 3u, 0u), searching), row, lane);
    if (searching) {
      let good = (s >= vec4f(least)) != vec4<bool>(q.kind == PLACES);
      found += unit * select(select(select(0u, 1u, good.x), 2u, good.y), 3u, good.z);
      if (shift > 0u) { continue; }
    }
    switch (step) {
      case K_KEY: {
        key = found;
        step = K_TIES;
      }
      case K_TIES: {
        q.floor_key = key;
        step = after_k;
        if (s.x > least) {
          least -= s.y;
          q.kind = PLACES;
          step = K_CUT;
        } else { least = 1.0; }
      }
      case K_CUT: {
        q.cut = found;
        q.kind = KEYS;
        least = 1.0;
        step = after_k;
      }
      case P_TOP: {
        q.top = unsortable(found);
        q.kind = MASS;
        key = 0u;
        step = P_TOTAL;
      }
      case P_TOTAL: {
        // Below the true bound by more than the rounding of the sums, so that a set that reaches top_p exactly is taken.
        least = params.top_p * s.x * 0.999999;
        step = P_KEY;
      }
      case P_KEY: {
        key = found;
        step = P_ABOVE;
      }
      case P_ABOVE: {
        above = s.y;
        q.kind = KEYS;
        step = P_TIES;
      }
      case P_TIES: {
        let each = exp(max((unsortable(key) - q.top) * params.inverse_temperature, -104.0));
        let needed = max(1.0, ceil((least - above) / max(each, 1e-38)));
        if (key > q.floor_key) { q.cut = 0xffffffffu; }
        q.floor_key = key;
        step = DONE;
        if (needed < s.x - s.y) {
          least = needed;
          q.kind = PLACES;
          step = P_CUT;
        }
      }
      default: { // P_CUT
        q.cut = found;
        step = DONE;
      }
    }
    found = 0u;
    shift = 32u;
  }
  if (lane == 0u) { threshold[params.first + row] = vec2u(q.floor_key, q.cut); }
}
