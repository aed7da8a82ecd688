// One stage of an exact reduction of integers over the middle of x [outer, n, inner]: y [outer, chunks, inner], chunk k covering n from k · chunk on.
// Values are 64-bit between stages (low and high word): a sum of 2^32 words of 32 bits does not overflow. With FIRST x has words of 32 bits, with
// LAST y has them: what does not fit is the nearest that does, or with MEAN the bits of the sum / divisor in f32. One invocation an element of y.
// Grid: flat over ceil(outer · chunks · inner / WORKGROUP) workgroups, folded.
//#use grid
//#use opaque
const WORKGROUP = 64u; // invocations
const KIND = 0u; // 0 sum, 1 max, 2 min
const SIGNED = false; // i32, else u32
const FIRST = true;
const LAST = true;
const MEAN = false; // divides the sums
struct Params {
  outer: u32,
  n: u32,
  inner: u32,
  chunk: u32,
  chunks: u32,
  divisor: f32, // divisor of a mean: the number of integers
}
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

fn load(i: u32) -> vec2u {
  if (!FIRST) { return vec2u(x[2u * i], x[2u * i + 1u]); }
  let word = x[i];
  return vec2u(word, select(0u, 0xffffffffu, SIGNED && word >= 0x80000000u));
}
fn add(a: vec2u, b: vec2u) -> vec2u {
  let low = a.x + b.x;
  return vec2u(low, a.y + b.y + select(0u, 1u, low < a.x));
}
// Order of 64-bit numbers; the sign is the top bit of the high word.
fn less(a: vec2u, b: vec2u) -> bool {
  let flip = select(0u, 0x80000000u, SIGNED);
  return (a.y ^ flip) < (b.y ^ flip) || (a.y == b.y && a.x < b.x);
}
fn combine(a: vec2u, b: vec2u) -> vec2u {
  if (KIND == 0u) { return add(a, b); }
  return select(a, b, vec2<bool>(less(a, b) == (KIND == 1u)));
}
// The word of 32 bits, or the nearest of its type.
fn saturate_word(v: vec2u) -> u32 {
  if (!SIGNED) { return select(v.x, 0xffffffffu, v.y != 0u); }
  let isNegative = v.y >= 0x80000000u;
  let fits = v.y == select(0u, 0xffffffffu, v.x >= 0x80000000u);
  return select(select(0x7fffffffu, 0x80000000u, isNegative), v.x, fits);
}
// The number as f32: its size from the two words, then its sign.
fn float_of(v: vec2u) -> f32 {
  let isNegative = SIGNED && v.y >= 0x80000000u;
  let size = select(v, add(~v, vec2u(1u, 0u)), isNegative);
  let f = f32(size.y) * 4294967296.0 + f32(size.x);
  return select(f, -f, isNegative);
}
// The upper 12 digits; what they leave has 12 as well, so products of such parts are exact.
fn upper(v: f32) -> f32 { return bitcast<f32>(bitcast<u32>(v) & 0xfffff000u); }
// a / b rounded to the nearest: WGSL's own may be 2.5 units of the last place off. The product of quotient and divisor is computed with its
// rounding error (Dekker), and what it lacks of a is divided once more.
fn divide(a: f32, b: f32) -> f32 {
  let q = opaque(a / b);
  let p = opaque(q * b);
  let qh = upper(q);
  let bh = upper(b);
  let ql = opaque(q - qh);
  let bl = opaque(b - bh);
  let error = opaque(opaque(opaque(opaque(qh * bh) - p) + opaque(qh * bl)) + opaque(ql * bh)) + opaque(ql * bl);
  return q + (opaque(a - p) - opaque(error)) / b;
}

@compute @workgroup_size(WORKGROUP)
fn reduce_integer(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.outer * params.chunks * params.inner) { return; }
  let column = index % params.inner;
  let rest = index / params.inner;
  let first = (rest % params.chunks) * params.chunk;
  let last = min(params.n, first + params.chunk);
  let base = (rest / params.chunks) * params.n;
  var value = load((base + first) * params.inner + column);
  for (var i = first + 1u; i < last; i++) { value = combine(value, load((base + i) * params.inner + column)); }
  if (LAST) {
    y[index] = select(saturate_word(value), bitcast<u32>(divide(float_of(value), params.divisor)), MEAN);
  } else {
    y[2u * index] = value.x;
    y[2u * index + 1u] = value.y;
  }
}
