// AdamW as in adamw.wgsl, with moments of 8 bits in blocks of 256 elements (Dettmers et al. 2022, blockwise quantisation), in place, for one tensor. A block
// of `moments` is 130 words: 64 with four bytes of m each, 64 of v, then the largest |m| and the largest v as f32. A byte stands for
// m = largest · sign(q) (q / 127)⁴, q two's complement, and v = largest · (q / 255)⁸: steps are fine where values are small. A v above 0 never becomes 0,
// for it divides. Difference from f32 moments after 40 steps, in a simulation, gradients of a block over 1, 2 and 4 orders of magnitude: 1.9, 2.7, 6.3 %
// of the way; with ² and ⁴ 1.5, 3.4, 36 %; with levels at equal ratios (20 and 36 octaves) 4.2, 4.3, 4.3 %, and 8.7 % after 300 steps.
// With STOCHASTIC p is bf16 and rounded up or down by chance, in proportion to how near either is, so that small steps add up without an f32
// master; the chance depends on t, the row of the parameter and the element. With COPY copy ← p rounded to its dtype, with EMA ema ← ema + (1 − γ)(p − ema), with OWN the parameter's own step count.
// A workgroup updates a block, an invocation a granule of 4. Grid: flat over ceil(elements / 256) workgroups, folded.
//#use grid
//#use philox
//#use f32 as p
//#use f32 as g
//#use bf16 as c
const WORKGROUP = 64u; // invocations: the granules of a block
const WORDS = 130u; // of a block
const STOCHASTIC = false;
const COPY = false;
const EMA = false;
const OWN = false; // a step count of the parameter's own
struct Params {
  elements: u32, // in the window; elements after the last are not changed
  rest1: f32, // 1 − β1
  rest2: f32, // 1 − β2
  epsilon: f32,
  decay: f32, // λ
  fresh: f32, // 1 − γ
  row: u32, // row of the parameter
  start: u32, // first granule of the window
}
@group(0) @binding(0) var<storage, read_write> p: array<Pack_p>;
@group(0) @binding(1) var<storage, read_write> moments: array<u32>;
@group(0) @binding(2) var<storage, read> g: array<Pack_g>;
@group(0) @binding(3) var<storage, read_write> copy: array<Pack_c>;
@group(0) @binding(4) var<storage, read_write> ema: array<Pack_g>;
@group(0) @binding(5) var<storage, read> state: array<vec4f>;
@group(0) @binding(6) var<storage, read> steps: array<f32>; // [parameters, 3]: t, c1, c2
@group(0) @binding(7) var<uniform> params: Params;

var<workgroup> largest: array<vec2f, WORKGROUP>;

// v rounded to bf16 by chance; what is not finite stays.
fn stochastic(v: vec4f, words: vec4u) -> vec4f {
  let u = bitcast<vec4u>(v);
  let kept = (u + (words >> vec4u(16u))) & vec4u(0xffff0000u);
  return bitcast<vec4f>(select(kept, u, (u & vec4u(0x7f800000u)) == vec4u(0x7f800000u)));
}
fn signed_bytes(word: u32) -> vec4f {
  let q = vec4f(bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u)) / 127.0;
  return q * abs(q) * (q * q);
}
fn plain_bytes(word: u32) -> vec4f {
  let q = vec4f((vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u)) / 255.0;
  let square = q * q;
  let fourth = square * square;
  return fourth * fourth;
}
fn packed(q: vec4i) -> u32 {
  let b = bitcast<vec4u>(q) & vec4u(255u);
  return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}

@compute @workgroup_size(WORKGROUP)
fn adamw8(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let s = state[0]; // t, η, c1, c2
  let r = state[1]; // factor, skip
  var c = s.zw;
  if (OWN) { c = vec2f(steps[3u * params.row + 1u], steps[3u * params.row + 2u]); }
  let block = flat_group(group, groups);
  let i = block * WORKGROUP + lane;
  let first = block * WORDS;
  let is_here = i * 4u < params.elements;
  let inside = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.elements);
  var mean = vec4f();
  var square = vec4f();
  if (is_here) {
    let grad = g[i] * r.x;
    mean = signed_bytes(moments[first + lane]) * bitcast<f32>(moments[first + 128u]);
    square = plain_bytes(moments[first + 64u + lane]) * bitcast<f32>(moments[first + 129u]);
    mean = select(vec4f(), mean + params.rest1 * (grad - mean), inside);
    square = select(vec4f(), square + params.rest2 * (grad * grad - square), inside);
  }
  let m = max(max(abs(mean.x), abs(mean.y)), max(abs(mean.z), abs(mean.w)));
  let v = max(max(square.x, square.y), max(square.z, square.w));
  largest[lane] = vec2f(m, v);
  workgroupBarrier();
  for (var step = WORKGROUP / 2u; step > 0u; step /= 2u) {
    if (lane < step) { largest[lane] = max(largest[lane], largest[lane + step]); }
    workgroupBarrier();
  }
  let most = largest[0];
  if (!is_here || r.y != 0.0) { return; }
  let unit = select(vec2f(), vec2f(1.0) / most, most > vec2f(1e-37)); // below, 1 / most is no number
  let q1 = vec4i(round(127.0 * sign(mean) * sqrt(sqrt(min(abs(mean) * unit.x, vec4f(1.0))))));
  let up = vec4i(round(255.0 * sqrt(sqrt(sqrt(min(square * unit.y, vec4f(1.0)))))));
  let q2 = max(up, select(vec4i(), vec4i(1), square > vec4f()));
  moments[first + lane] = packed(q1);
  moments[first + 64u + lane] = packed(q2);
  if (lane == 0u) {
    moments[first + 128u] = bitcast<u32>(most.x);
    moments[first + 129u] = bitcast<u32>(most.y);
  }
  let old = unpack_p(p[i]);
  var next = old - s.y * params.decay * old - s.y / c.x * mean / (sqrt(square) * inverseSqrt(c.y) + params.epsilon);
  if (STOCHASTIC) {
    var t = s.x;
    if (OWN) { t = steps[3u * params.row]; }
    next = stochastic(next, philox(vec4u(params.start + i, u32(t), params.row, 0u), vec2u(0u)));
  }
  p[i] = pack_p(select(old, next, inside));
  if (EMA) { ema[i] = select(ema[i], ema[i] + params.fresh * (next - ema[i]), inside); }
  if (COPY) { copy[i] = pack_c(select(old, next, inside)); }
}
