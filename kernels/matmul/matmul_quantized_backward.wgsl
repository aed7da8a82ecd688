// y = A [M, N] · W, W [N, K] quantised along K, dequantised in registers: the gradient of the input of a product with Wᵗ. An invocation owns ROWS rows of
// eight columns of W, and reads their words (one of int4, two of int8) of every row of W: neighbours read neighbouring words. A row adds up its terms in their order,
// so it has the same bits in any number of rows. K is a multiple of 4; A lies [M, N] with N padded to a multiple of 4 by zeros.
// Params: size (M, K, N, –); a (offset; step of a row; offset of scales; –), b (offset; scales of a row; words of a row; –).
// Grid: (ceil(M / ROWS), ceil(K / 8 / WORKGROUP)).
//#use quantized_bindings
//#use quantized_scales_each as g
//#use matmul_io
//#use f32 as a
//#use quantized_int4 as b
const WORKGROUP = 64u; // invocations
const ROWS = 8u; // 1, 2, 4, 8 or 16
@group(0) @binding(0) var<storage, read> a: array<Pack_a>;
@group(0) @binding(1) var<storage, read> b: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn matmul_quantized_backward(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x * ROWS;
  let column = (group.y * WORKGROUP + lane) * 8u;
  if (column >= params.size.y) { return; }
  let last = params.size.z - 1u;
  var at_a: array<u32, ROWS>;
  var sums: array<vec4f, ROWS * 2u>;
  for (var r = 0u; r < ROWS; r++) { //#unroll
    at_a[r] = (params.a.x + min(row + r, params.size.x - 1u) * params.a.y) / 4u;
  }
  for (var n = 0u; n < params.size.z; n += 4u) {
    var held: array<vec4f, ROWS>;
    for (var r = 0u; r < ROWS; r++) { //#unroll
      held[r] = unpack_a(a[at_a[r] + n / 4u]);
    }
    for (var i = 0u; i < 4u; i++) { //#unroll
      let term = min(n + i, last);
      let word = params.b.x + term * params.b.z + column / VALUES_b;
      let scale = scale_at(params.a.z + term * params.b.y + column / 32u);
      let bits = b[word];
      var more = bits;
      if (VALUES_b == 4u) { more = b[word + 1u]; }
      let w0 = values_b(bits, 0u) * scale;
      let w1 = values_b(more, 1u % (VALUES_b / 4u)) * scale;
      for (var r = 0u; r < ROWS; r++) { //#unroll
        sums[r * 2u] = fma(vec4f(held[r][i]), w0, sums[r * 2u]);
        sums[r * 2u + 1u] = fma(vec4f(held[r][i]), w1, sums[r * 2u + 1u]);
      }
    }
  }
  // A copy: the sums themselves must not be indexed by a variable.
  var results = sums;
  for (var r = 0u; r < min(ROWS, params.size.x - row); r++) {
    for (var q = 0u; q < 2u; q++) {
      if (column + 4u * q < params.size.y) { finish(vec2u(), row + r, column + 4u * q, results[r * 2u + q]); }
    }
  }
}
