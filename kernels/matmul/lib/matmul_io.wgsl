// What the matmul kernels share: parameters and the epilogue (the bindings are those of library matmul_bindings or quantized_bindings)
//   y = activation(alpha · sum [+ y] + bias) + residual, or with GATED y = silu(gate) · up of the two halves of the columns.
// With NORM the rows of A are those of an RMS norm of `a`: the kernels for few rows compute it while they load them.
// Offsets and steps count elements. If y is stored in fours (W_y = 4) columns, steps and offsets of y and residual are multiples of 4.
//#use matmul_activation
//#use f32 as h
//#use f32 as r
//#use f32 as y
const BIAS = false;
const RESIDUAL = false;
const ACCUMULATE = false; // add to what y holds
const ACTIVATION = 0u; // as in library matmul_activation
const BY_PARAMS = false; // bias, residual and activation are as params.a.w says: one pipeline for all of them
const BY_COMPONENT = false; // with BY_PARAMS: bias and activation take a component at a time, a quarter of the code
const NORM = false;
const GATED = false; // y has half the columns, stored one by one
struct Params {
  size: vec4u, // rows M, columns N, terms K, inner batches
  a: vec4u, // offset; step of a row; step of a term; with BY_PARAMS 1 for a bias + 2 for a residual + 4 · activation
  b: vec4u, // offset; step of a term; step of a column; offset into bias
  y: vec4u, // offset of y; of residual; step of a row of y; of residual
  batches: vec4u, // step of an outer, inner batch in a; in b
  batches_y: vec4u, // the same in y; in residual
  alpha: f32,
  scale: f32, // of the norm: 1 / K
  eps: f32, // of the norm
}

// Outer and inner index of a batch; its offset for a pair of steps.
fn batch_of(z: u32) -> vec2u {
  let outer = z / params.size.w;
  return vec2u(outer, z - outer * params.size.w);
}
fn along(batch: vec2u, outer: u32, inner: u32) -> u32 { return batch.x * outer + batch.y * inner; }

fn bias_at(i: u32) -> f32 { return pick_h(bias[i / PER_h], i); }
// A granule of the norm's weight, and a granule of A under the norm.
fn gain_at(k: u32) -> vec4f {
  if (PER_h == 1u) { return vec4f(bias_at(4u * k), bias_at(4u * k + 1u), bias_at(4u * k + 2u), bias_at(4u * k + 3u)); }
  let low = bias[2u * k];
  let high = bias[2u * k + 1u];
  return vec4f(pick_h(low, 0u), pick_h(low, 1u), pick_h(high, 0u), pick_h(high, 1u));
}
fn normed(v: vec4f, rstd: f32, gain: vec4f) -> vec4f {
  if (NORM) { return (v * rstd) * gain; }
  return v;
}

// The four columns of an invocation: neighbours, or with GATED two of the gate and the same two of up.
fn columns_from(column: u32) -> vec4u {
  let half = params.size.y / 2u;
  let own = select(vec4u(column) + vec4u(0u, 1u, 2u, 3u), vec4u(column / 2u) + vec4u(0u, 1u, half, half + 1u), GATED);
  return min(own, vec4u(params.size.y - 1u));
}

// Writes the sums of four columns of one row; those beyond the last column are dropped.
fn finish(batch: vec2u, row: u32, column: u32, sum: vec4f) {
  if (GATED) {
    let first = params.y.x + row * params.y.z + column / 2u;
    let v = silu4(vec4f(sum.xy, 0.0, 0.0)) * vec4f(sum.zw, 0.0, 0.0);
    y[first] = pack_y(vec4f(v.x, 0.0, 0.0, 0.0));
    y[first + 1u] = pack_y(vec4f(v.y, 0.0, 0.0, 0.0));
    return;
  }
  let at = params.y.x + along(batch, params.batches_y.x, params.batches_y.y) + row * params.y.z + column;
  let count = min(4u, params.size.y - column);
  var v = sum * params.alpha;
  if (ACCUMULATE) {
    if (W_y == 4u) {
      v += unpack_y(y[at / 4u]);
    } else {
      for (var j = 0u; j < count; j++) { v[j] += unpack_y(y[at + j]).x; }
    }
  }
  if (BY_COMPONENT) {
    if ((params.a.w & ~2u) != 0u) {
      // Each round finishes the first component and moves it to the end. The compiler must not know the bound, else it writes the loop out.
      let bound = 4u + (params.size.x >> 31u);
      for (var j = 0u; j < bound; j++) {
        var x = v.x;
        if ((params.a.w & 1u) != 0u) { x += bias_at(params.b.w + column + min(j, count - 1u)); }
        v = vec4f(v.yzw, activate(params.a.w / 4u, vec4f(x)).x);
      }
    }
  } else {
    if (BIAS || (BY_PARAMS && (params.a.w & 1u) != 0u)) {
      let first = params.b.w + column;
      let last = count - 1u;
      v += vec4f(bias_at(first), bias_at(first + min(1u, last)), bias_at(first + min(2u, last)), bias_at(first + last));
    }
    v = activate(select(ACTIVATION, params.a.w / 4u, BY_PARAMS), v);
  }
  if (RESIDUAL || (BY_PARAMS && (params.a.w & 2u) != 0u)) {
    let first = params.y.y + along(batch, params.batches_y.z, params.batches_y.w) + row * params.y.w + column;
    if (W_r == 4u) {
      v += unpack_r(residual[first / 4u]);
    } else {
      for (var j = 0u; j < count; j++) { v[j] += unpack_r(residual[first + j]).x; }
    }
  }
  if (W_y == 4u) {
    y[at / 4u] = pack_y(v);
  } else {
    for (var j = 0u; j < count; j++) { y[at + j] = pack_y(vec4f(v[j], 0.0, 0.0, 0.0)); }
  }
}
