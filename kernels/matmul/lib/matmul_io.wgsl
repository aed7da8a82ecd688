// What the matmul kernels share: parameters and the epilogue (the bindings are those of library matmul_bindings or quantized_bindings)
//   y = activation(alpha · sum [+ y] + bias) + residual.
// Offsets and steps count elements. If y is stored in fours (W_y = 4) columns, steps and offsets of y and residual are multiples of 4.
//#use matmul_activation
//#use f32 as r
//#use f32 as y
const BIAS = false;
const RESIDUAL = false;
const ACCUMULATE = false; // add to what y holds
const ACTIVATION = 0u; // as in library matmul_activation
struct Params {
  size: vec4u, // rows M, columns N, terms K, inner batches
  a: vec4u, // offset; step of a row; step of a term
  b: vec4u, // offset; step of a term; step of a column; offset into bias
  y: vec4u, // offset of y; of residual; step of a row of y; of residual
  batches: vec4u, // step of an outer, inner batch in a; in b
  batches_y: vec4u, // the same in y; in residual
  alpha: f32,
}

// Outer and inner index of a batch; its offset for a pair of steps.
fn batch_of(z: u32) -> vec2u {
  let outer = z / params.size.w;
  return vec2u(outer, z - outer * params.size.w);
}
fn along(batch: vec2u, outer: u32, inner: u32) -> u32 { return batch.x * outer + batch.y * inner; }

// Writes the sums of four columns of one row; those beyond the last column are dropped.
fn finish(batch: vec2u, row: u32, column: u32, sum: vec4f) {
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
  if (BIAS) {
    let first = params.b.w + column;
    let last = count - 1u;
    v += vec4f(bias[first], bias[first + min(1u, last)], bias[first + min(2u, last)], bias[first + last]);
  }
  v = activate(ACTIVATION, v);
  if (RESIDUAL) {
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
