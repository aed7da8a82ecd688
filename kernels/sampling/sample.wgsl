// best[r, k] = (score, index) of the highest score among the granules k, k + chunks, … of row r, the lowest index among equals. The score is
// the logit, or with RANDOM the logit / temperature − log E with E exponentially distributed (the Gumbel-max trick: the highest score is a
// draw from the softmax). E is a function of seed, step, sample, site and token alone: Philox word `token % 4` of counter
// (token / 4, sample + r, step + position, site); with SEEDED row r has the key (seeds[r], 0) and the counter (token / 4, sample, …).
// With FILTER only tokens that limits[r] allows take part. −Inf is a masked token and never does. NaN and +Inf are seen by the bits of the
// logits as they were loaded (WGSL lets an implementation assume that there are none): the index is then NOT_FINITE.
// With ROWS each row has its own settings in place of `seeds` and `position`: (seed, position, bits of 1 / temperature, bits of top_p); a
// temperature of 0, written as 1 / temperature = 0, takes the highest logit.
// With GUIDED the logits of row r are u + guidance · (c − u) of rows c = x[2r] and u = x[2r + 1], as guidance.wgsl makes them, in f32.
// One invocation a (row, chunk), chunks ≤ granules.
// Grid: flat over ceil(rows · chunks / WORKGROUP) workgroups, folded.
//#use grid
//#use philox
//#use sortable
//#use f32 as x
const WORKGROUP = 64u; // invocations
const RANDOM = false;
const FILTER = false;
const SEEDED = false;
const MOVED = false; // `position` is added to the step
const GUIDED = false;
const ROWS = false; // `seeds` has four words a row
const NONE = 0xffffffffu; // an index: no token takes part
const NOT_FINITE = 0xfffffffeu; // an index: one of the logits is NaN or +Inf
struct Params {
  rows: u32, // in the window
  first: u32, // row of limits, seeds and best at which the window starts
  granules: u32, // a row
  chunks: u32,
  site: u32,
  inverse_temperature: f32,
  guidance: f32,
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> limits: array<vec4u>; // 2 a row; the first is (sortable key, index among equals)
@group(0) @binding(2) var<storage, read> state: array<vec4u>; // seed low, seed high, step, sample
@group(0) @binding(3) var<storage, read> seeds: array<u32>;
@group(0) @binding(4) var<storage, read> position: array<u32>;
@group(0) @binding(5) var<storage, read_write> best: array<vec2u>; // bits of the score, index
@group(0) @binding(6) var<uniform> params: Params;

// −log(1 − u) for u = (word + ½) / 2^32: by its series if 1 − u would round; 1 − u = (~word + ½) / 2^32 is never 0.
fn exponential(words: vec4u) -> vec4f {
  let u = (vec4f(words) + 0.5) * 2.3283064365386963e-10;
  let rest = (vec4f(~words) + 0.5) * 2.3283064365386963e-10;
  let series = u * (1.0 + u * (0.5 + u * (0.33333333 + u * (0.25 + u * 0.2))));
  return select(-log(rest), series, u < vec4f(0.03));
}

@compute @workgroup_size(WORKGROUP)
fn sample(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let flat = flat_group(group, groups) * WORKGROUP + lane;
  let window_row = flat / params.chunks;
  if (window_row >= params.rows) { return; }
  let row = params.first + window_row;
  let chunk = flat % params.chunks;
  var counter = vec4u();
  var key = vec2u();
  if (RANDOM) {
    let s = state[0];
    counter = vec4u(0u, s.w, s.z, params.site);
    key = s.xy;
    if (SEEDED) { key = vec2u(seeds[row], 0u); } else { counter.y += row; }
    if (MOVED) { counter.z += position[0]; }
    if (ROWS) {
      key = vec2u(seeds[4u * row], 0u);
      counter = vec4u(0u, s.w, s.z + seeds[4u * row + 1u], params.site);
    }
  }
  var inverse_temperature = params.inverse_temperature;
  if (ROWS) { inverse_temperature = bitcast<f32>(seeds[4u * row + 2u]); }
  let is_greedy = ROWS && inverse_temperature == 0.0;
  var lowest = vec2u();
  if (FILTER) { lowest = limits[2u * row].xy; }
  let reach = 3e38 / max(inverse_temperature, 1.0); // logit / temperature must stay finite
  var is_finite = true;
  var score = -3.4028234e38;
  var index = NONE;
  for (var g = chunk; g < params.granules; g += params.chunks) {
    var v = unpack_x(x[select(1u, 2u, GUIDED) * window_row * params.granules + g]);
    if (GUIDED) {
      let u = unpack_x(x[(2u * window_row + 1u) * params.granules + g]);
      v = u + params.guidance * (v - u);
    }
    var scores = vec4f(v);
    if (RANDOM) {
      counter.x = (g * W_x) / 4u;
      var words = philox(counter, key);
      if (W_x == 1u) { words.x = words[g & 3u]; }
      let drawn = clamp(v, vec4f(-reach), vec4f(reach)) * inverse_temperature - log(exponential(words));
      scores = select(drawn, vec4f(v), is_greedy);
    }
    for (var e = 0u; e < W_x; e++) {
      let token = g * W_x + e;
      let bits = bitcast<u32>(v[e]);
      var allowed = bits != 0xff800000u;
      if (allowed && (bits & 0x7f800000u) == 0x7f800000u) { is_finite = false; }
      if (FILTER) {
        let rank = sortable(v[e]);
        allowed = allowed && (is_greedy || rank > lowest.x || (rank == lowest.x && token <= lowest.y));
      }
      if (allowed && (scores[e] > score || index == NONE)) {
        score = scores[e];
        index = token;
      }
    }
  }
  best[row * params.chunks + chunk] = vec2u(bitcast<u32>(score), select(NOT_FINITE, index, is_finite));
}
