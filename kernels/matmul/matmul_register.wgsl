// y[z] = epilogue(A[z] [M, K] · B[z] [K, N]) in registers: no workgroup memory, no barrier. An invocation owns ROWS rows of one granule of four
// columns. Its LANES neighbours share the loads of A: with LANES = 1 each loads what it needs (same addresses), else (library lanes_subgroup,
// WORKGROUP = LANES = subgroup size) each loads a part and values are broadcast. TRANS_A: A lies [K, M]; TRANS_B: B lies [N, K].
// K is a multiple of 4 unless A lies [K, M] and B [K, N]. Grid: (ceil(M / ROWS), ceil(N / 4 / WORKGROUP), batches): workgroups
// that follow one another read the same columns of B.
// The FMAs are written out: a loop over accumulators would put them in memory on software Vulkan.
//#use matmul_bindings
//#use matmul_io
//#use f32 as a
//#use f32 as b
//#use norm_none as n
//#use lanes_none as s
const WORKGROUP = 64u; // invocations
const LANES = 1u; // 1, or the subgroup size
const ROWS = 8u; // 4, 8 or 16; also 1 or 2 if A lies [M, K]
const TRANS_A = false;
const TRANS_B = false;
const QUADS = max(1u, ROWS / 4u);
@group(0) @binding(0) var<storage, read> a: array<Pack_a>;
@group(0) @binding(1) var<storage, read> b: array<Pack_b>;

// Granule of A that is load `i` of invocation `lane`, for the first four terms.
fn address_a(first: u32, row: u32, i: u32, lane: u32) -> u32 {
  let id = (i * LANES + lane % LANES) % ROWS;
  if (TRANS_A) {
    return first + (id / QUADS) * (params.a.z / 4u) + min(row / 4u + id % QUADS, (params.size.x - 1u) / 4u);
  }
  return first + min(row + id, params.size.x - 1u) * (params.a.y / 4u);
}

//#use size_any as z
@compute @workgroup_size(WORKGROUP)
fn matmul_register(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let batch = batch_of(group.z);
  let row = group.x * ROWS;
  let column = (group.y * WORKGROUP + lane) * 4u;
  let last = params.size.y - 1u;
  let first_a = (params.a.x + along(batch, params.batches.x, params.batches.y)) / 4u;
  let first_b = (params.b.x + along(batch, params.batches.z, params.batches.w)) / 4u;
  // Granules from one step of four terms to the next.
  let step_a = select(1u, params.a.z, TRANS_A);
  let step_b = select(params.b.y, 1u, TRANS_B);
  var a0 = address_a(first_a, row, 0u, lane);
  var a1 = address_a(first_a, row, 1u, lane);
  var a2 = address_a(first_a, row, 2u, lane);
  var a3 = address_a(first_a, row, 3u, lane);
  var a4 = address_a(first_a, row, 4u, lane);
  var a5 = address_a(first_a, row, 5u, lane);
  var a6 = address_a(first_a, row, 6u, lane);
  var a7 = address_a(first_a, row, 7u, lane);
  var a8 = address_a(first_a, row, 8u, lane);
  var a9 = address_a(first_a, row, 9u, lane);
  var a10 = address_a(first_a, row, 10u, lane);
  var a11 = address_a(first_a, row, 11u, lane);
  var a12 = address_a(first_a, row, 12u, lane);
  var a13 = address_a(first_a, row, 13u, lane);
  var a14 = address_a(first_a, row, 14u, lane);
  var a15 = address_a(first_a, row, 15u, lane);
  let term = params.b.y / 4u;
  let here = first_b + min(column, last) / 4u;
  var at_b = select(
    vec4u(here, here + term, here + 2u * term, here + 3u * term),
    first_b + columns_from(column) * (params.b.z / 4u),
    TRANS_B,
  );
  var c0 = vec4f();
  var c1 = vec4f();
  var c2 = vec4f();
  var c3 = vec4f();
  var c4 = vec4f();
  var c5 = vec4f();
  var c6 = vec4f();
  var c7 = vec4f();
  var c8 = vec4f();
  var c9 = vec4f();
  var c10 = vec4f();
  var c11 = vec4f();
  var c12 = vec4f();
  var c13 = vec4f();
  var c14 = vec4f();
  var c15 = vec4f();
  // With NORM: a factor for the row of each load.
  var factors: array<f32, 16>;
  if (NORM) {
    for (var i = 0u; i < ROWS; i += 4u) {
      let four = rstds_n(first_a + min(vec4u(row + i) + vec4u(0u, 1u, 2u, 3u), vec4u(params.size.x - 1u)) * (params.a.y / 4u), lane);
      for (var j = 0u; j < min(4u, ROWS); j++) {
        for (var l = 0u; l < max(1u, ROWS / LANES); l++) {
          factors[l] = select(factors[l], four[j], (l * LANES + lane % LANES) % ROWS == i + j);
        }
      }
    }
  }
  var held: array<vec4f, 16>;
  for (var k = 0u; k < params.size.z / 4u; k++) {
    var gain = vec4f();
    if (NORM) { gain = gain_at(k); }
    held[0] = normed(unpack_a(a[a0]), factors[0], gain);
    a0 += step_a;
    if (ROWS / LANES > 1u) { held[1] = normed(unpack_a(a[a1]), factors[1], gain); a1 += step_a; }
    if (ROWS / LANES > 2u) { held[2] = normed(unpack_a(a[a2]), factors[2], gain); a2 += step_a; }
    if (ROWS / LANES > 3u) { held[3] = normed(unpack_a(a[a3]), factors[3], gain); a3 += step_a; }
    if (ROWS / LANES > 4u) { held[4] = normed(unpack_a(a[a4]), factors[4], gain); a4 += step_a; }
    if (ROWS / LANES > 5u) { held[5] = normed(unpack_a(a[a5]), factors[5], gain); a5 += step_a; }
    if (ROWS / LANES > 6u) { held[6] = normed(unpack_a(a[a6]), factors[6], gain); a6 += step_a; }
    if (ROWS / LANES > 7u) { held[7] = normed(unpack_a(a[a7]), factors[7], gain); a7 += step_a; }
    if (ROWS / LANES > 8u) { held[8] = normed(unpack_a(a[a8]), factors[8], gain); a8 += step_a; }
    if (ROWS / LANES > 9u) { held[9] = normed(unpack_a(a[a9]), factors[9], gain); a9 += step_a; }
    if (ROWS / LANES > 10u) { held[10] = normed(unpack_a(a[a10]), factors[10], gain); a10 += step_a; }
    if (ROWS / LANES > 11u) { held[11] = normed(unpack_a(a[a11]), factors[11], gain); a11 += step_a; }
    if (ROWS / LANES > 12u) { held[12] = normed(unpack_a(a[a12]), factors[12], gain); a12 += step_a; }
    if (ROWS / LANES > 13u) { held[13] = normed(unpack_a(a[a13]), factors[13], gain); a13 += step_a; }
    if (ROWS / LANES > 14u) { held[14] = normed(unpack_a(a[a14]), factors[14], gain); a14 += step_a; }
    if (ROWS / LANES > 15u) { held[15] = normed(unpack_a(a[a15]), factors[15], gain); a15 += step_a; }
    var b0 = unpack_b(b[at_b.x]);
    var b1 = unpack_b(b[at_b.y]);
    var b2 = unpack_b(b[at_b.z]);
    var b3 = unpack_b(b[at_b.w]);
    at_b += vec4u(step_b);
    if (TRANS_B) {
      let w = transpose(mat4x4f(b0, b1, b2, b3));
      b0 = w[0]; b1 = w[1]; b2 = w[2]; b3 = w[3];
    }
    if (TRANS_A) {
      var v: vec4f;
      v = share_s(held[(0u * QUADS + 0u) / LANES], (0u * QUADS + 0u) % LANES);
      c0 = fma(vec4f(v.x), b0, c0);
      c1 = fma(vec4f(v.y), b0, c1);
      c2 = fma(vec4f(v.z), b0, c2);
      c3 = fma(vec4f(v.w), b0, c3);
      v = share_s(held[(1u * QUADS + 0u) / LANES], (1u * QUADS + 0u) % LANES);
      c0 = fma(vec4f(v.x), b1, c0);
      c1 = fma(vec4f(v.y), b1, c1);
      c2 = fma(vec4f(v.z), b1, c2);
      c3 = fma(vec4f(v.w), b1, c3);
      v = share_s(held[(2u * QUADS + 0u) / LANES], (2u * QUADS + 0u) % LANES);
      c0 = fma(vec4f(v.x), b2, c0);
      c1 = fma(vec4f(v.y), b2, c1);
      c2 = fma(vec4f(v.z), b2, c2);
      c3 = fma(vec4f(v.w), b2, c3);
      v = share_s(held[(3u * QUADS + 0u) / LANES], (3u * QUADS + 0u) % LANES);
      c0 = fma(vec4f(v.x), b3, c0);
      c1 = fma(vec4f(v.y), b3, c1);
      c2 = fma(vec4f(v.z), b3, c2);
      c3 = fma(vec4f(v.w), b3, c3);
      if (ROWS > 4u) {
        v = share_s(held[(0u * QUADS + 1u) / LANES], (0u * QUADS + 1u) % LANES);
        c4 = fma(vec4f(v.x), b0, c4);
        c5 = fma(vec4f(v.y), b0, c5);
        c6 = fma(vec4f(v.z), b0, c6);
        c7 = fma(vec4f(v.w), b0, c7);
        v = share_s(held[(1u * QUADS + 1u) / LANES], (1u * QUADS + 1u) % LANES);
        c4 = fma(vec4f(v.x), b1, c4);
        c5 = fma(vec4f(v.y), b1, c5);
        c6 = fma(vec4f(v.z), b1, c6);
        c7 = fma(vec4f(v.w), b1, c7);
        v = share_s(held[(2u * QUADS + 1u) / LANES], (2u * QUADS + 1u) % LANES);
        c4 = fma(vec4f(v.x), b2, c4);
        c5 = fma(vec4f(v.y), b2, c5);
        c6 = fma(vec4f(v.z), b2, c6);
        c7 = fma(vec4f(v.w), b2, c7);
        v = share_s(held[(3u * QUADS + 1u) / LANES], (3u * QUADS + 1u) % LANES);
        c4 = fma(vec4f(v.x), b3, c4);
        c5 = fma(vec4f(v.y), b3, c5);
        c6 = fma(vec4f(v.z), b3, c6);
        c7 = fma(vec4f(v.w), b3, c7);
      }
      if (ROWS > 8u) {
        v = share_s(held[(0u * QUADS + 2u) / LANES], (0u * QUADS + 2u) % LANES);
        c8 = fma(vec4f(v.x), b0, c8);
        c9 = fma(vec4f(v.y), b0, c9);
        c10 = fma(vec4f(v.z), b0, c10);
        c11 = fma(vec4f(v.w), b0, c11);
        v = share_s(held[(1u * QUADS + 2u) / LANES], (1u * QUADS + 2u) % LANES);
        c8 = fma(vec4f(v.x), b1, c8);
        c9 = fma(vec4f(v.y), b1, c9);
        c10 = fma(vec4f(v.z), b1, c10);
        c11 = fma(vec4f(v.w), b1, c11);
        v = share_s(held[(2u * QUADS + 2u) / LANES], (2u * QUADS + 2u) % LANES);
        c8 = fma(vec4f(v.x), b2, c8);
        c9 = fma(vec4f(v.y), b2, c9);
        c10 = fma(vec4f(v.z), b2, c10);
        c11 = fma(vec4f(v.w), b2, c11);
        v = share_s(held[(3u * QUADS + 2u) / LANES], (3u * QUADS + 2u) % LANES);
        c8 = fma(vec4f(v.x), b3, c8);
        c9 = fma(vec4f(v.y), b3, c9);
        c10 = fma(vec4f(v.z), b3, c10);
        c11 = fma(vec4f(v.w), b3, c11);
        v = share_s(held[(0u * QUADS + 3u) / LANES], (0u * QUADS + 3u) % LANES);
        c12 = fma(vec4f(v.x), b0, c12);
        c13 = fma(vec4f(v.y), b0, c13);
        c14 = fma(vec4f(v.z), b0, c14);
        c15 = fma(vec4f(v.w), b0, c15);
        v = share_s(held[(1u * QUADS + 3u) / LANES], (1u * QUADS + 3u) % LANES);
        c12 = fma(vec4f(v.x), b1, c12);
        c13 = fma(vec4f(v.y), b1, c13);
        c14 = fma(vec4f(v.z), b1, c14);
        c15 = fma(vec4f(v.w), b1, c15);
        v = share_s(held[(2u * QUADS + 3u) / LANES], (2u * QUADS + 3u) % LANES);
        c12 = fma(vec4f(v.x), b2, c12);
        c13 = fma(vec4f(v.y), b2, c13);
        c14 = fma(vec4f(v.z), b2, c14);
        c15 = fma(vec4f(v.w), b2, c15);
        v = share_s(held[(3u * QUADS + 3u) / LANES], (3u * QUADS + 3u) % LANES);
        c12 = fma(vec4f(v.x), b3, c12);
        c13 = fma(vec4f(v.y), b3, c13);
        c14 = fma(vec4f(v.z), b3, c14);
        c15 = fma(vec4f(v.w), b3, c15);
      }
    } else {
      var v: vec4f;
      v = share_s(held[0u / LANES], 0u % LANES);
      c0 = fma(vec4f(v.x), b0, c0);
      c0 = fma(vec4f(v.y), b1, c0);
      c0 = fma(vec4f(v.z), b2, c0);
      c0 = fma(vec4f(v.w), b3, c0);
      if (ROWS > 1u) {
        v = share_s(held[1u / LANES], 1u % LANES);
        c1 = fma(vec4f(v.x), b0, c1);
        c1 = fma(vec4f(v.y), b1, c1);
        c1 = fma(vec4f(v.z), b2, c1);
        c1 = fma(vec4f(v.w), b3, c1);
      }
      if (ROWS > 2u) {
        v = share_s(held[2u / LANES], 2u % LANES);
        c2 = fma(vec4f(v.x), b0, c2);
        c2 = fma(vec4f(v.y), b1, c2);
        c2 = fma(vec4f(v.z), b2, c2);
        c2 = fma(vec4f(v.w), b3, c2);
        v = share_s(held[3u / LANES], 3u % LANES);
        c3 = fma(vec4f(v.x), b0, c3);
        c3 = fma(vec4f(v.y), b1, c3);
        c3 = fma(vec4f(v.z), b2, c3);
        c3 = fma(vec4f(v.w), b3, c3);
      }
      if (ROWS > 4u) {
        v = share_s(held[4u / LANES], 4u % LANES);
        c4 = fma(vec4f(v.x), b0, c4);
        c4 = fma(vec4f(v.y), b1, c4);
        c4 = fma(vec4f(v.z), b2, c4);
        c4 = fma(vec4f(v.w), b3, c4);
        v = share_s(held[5u / LANES], 5u % LANES);
        c5 = fma(vec4f(v.x), b0, c5);
        c5 = fma(vec4f(v.y), b1, c5);
        c5 = fma(vec4f(v.z), b2, c5);
        c5 = fma(vec4f(v.w), b3, c5);
        v = share_s(held[6u / LANES], 6u % LANES);
        c6 = fma(vec4f(v.x), b0, c6);
        c6 = fma(vec4f(v.y), b1, c6);
        c6 = fma(vec4f(v.z), b2, c6);
        c6 = fma(vec4f(v.w), b3, c6);
        v = share_s(held[7u / LANES], 7u % LANES);
        c7 = fma(vec4f(v.x), b0, c7);
        c7 = fma(vec4f(v.y), b1, c7);
        c7 = fma(vec4f(v.z), b2, c7);
        c7 = fma(vec4f(v.w), b3, c7);
      }
      if (ROWS > 8u) {
        v = share_s(held[8u / LANES], 8u % LANES);
        c8 = fma(vec4f(v.x), b0, c8);
        c8 = fma(vec4f(v.y), b1, c8);
        c8 = fma(vec4f(v.z), b2, c8);
        c8 = fma(vec4f(v.w), b3, c8);
        v = share_s(held[9u / LANES], 9u % LANES);
        c9 = fma(vec4f(v.x), b0, c9);
        c9 = fma(vec4f(v.y), b1, c9);
        c9 = fma(vec4f(v.z), b2, c9);
        c9 = fma(vec4f(v.w), b3, c9);
        v = share_s(held[10u / LANES], 10u % LANES);
        c10 = fma(vec4f(v.x), b0, c10);
        c10 = fma(vec4f(v.y), b1, c10);
        c10 = fma(vec4f(v.z), b2, c10);
        c10 = fma(vec4f(v.w), b3, c10);
        v = share_s(held[11u / LANES], 11u % LANES);
        c11 = fma(vec4f(v.x), b0, c11);
        c11 = fma(vec4f(v.y), b1, c11);
        c11 = fma(vec4f(v.z), b2, c11);
        c11 = fma(vec4f(v.w), b3, c11);
        v = share_s(held[12u / LANES], 12u % LANES);
        c12 = fma(vec4f(v.x), b0, c12);
        c12 = fma(vec4f(v.y), b1, c12);
        c12 = fma(vec4f(v.z), b2, c12);
        c12 = fma(vec4f(v.w), b3, c12);
        v = share_s(held[13u / LANES], 13u % LANES);
        c13 = fma(vec4f(v.x), b0, c13);
        c13 = fma(vec4f(v.y), b1, c13);
        c13 = fma(vec4f(v.z), b2, c13);
        c13 = fma(vec4f(v.w), b3, c13);
        v = share_s(held[14u / LANES], 14u % LANES);
        c14 = fma(vec4f(v.x), b0, c14);
        c14 = fma(vec4f(v.y), b1, c14);
        c14 = fma(vec4f(v.z), b2, c14);
        c14 = fma(vec4f(v.w), b3, c14);
        v = share_s(held[15u / LANES], 15u % LANES);
        c15 = fma(vec4f(v.x), b0, c15);
        c15 = fma(vec4f(v.y), b1, c15);
        c15 = fma(vec4f(v.z), b2, c15);
        c15 = fma(vec4f(v.w), b3, c15);
      }
    }
  }
  // Terms beyond the last four: both operands lie with the terms outside.
  if (TRANS_A && !TRANS_B) {
    let quads = (params.size.x - 1u) / 4u;
    for (var k = params.size.z & ~3u; k < params.size.z; k++) {
      let b0 = unpack_b(b[here + k * term]);
      var v: vec4f;
      v = unpack_a(a[first_a + k * (params.a.z / 4u) + min(row / 4u + 0u, quads)]);
      c0 = fma(vec4f(v.x), b0, c0);
      c1 = fma(vec4f(v.y), b0, c1);
      c2 = fma(vec4f(v.z), b0, c2);
      c3 = fma(vec4f(v.w), b0, c3);
      if (QUADS > 1u) {
        v = unpack_a(a[first_a + k * (params.a.z / 4u) + min(row / 4u + 1u, quads)]);
        c4 = fma(vec4f(v.x), b0, c4);
        c5 = fma(vec4f(v.y), b0, c5);
        c6 = fma(vec4f(v.z), b0, c6);
        c7 = fma(vec4f(v.w), b0, c7);
      }
      if (QUADS > 2u) {
        v = unpack_a(a[first_a + k * (params.a.z / 4u) + min(row / 4u + 2u, quads)]);
        c8 = fma(vec4f(v.x), b0, c8);
        c9 = fma(vec4f(v.y), b0, c9);
        c10 = fma(vec4f(v.z), b0, c10);
        c11 = fma(vec4f(v.w), b0, c11);
      }
      if (QUADS > 3u) {
        v = unpack_a(a[first_a + k * (params.a.z / 4u) + min(row / 4u + 3u, quads)]);
        c12 = fma(vec4f(v.x), b0, c12);
        c13 = fma(vec4f(v.y), b0, c13);
        c14 = fma(vec4f(v.z), b0, c14);
        c15 = fma(vec4f(v.w), b0, c15);
      }
    }
  }
  if (column > last) { return; }
  // A copy: the accumulators themselves must not be indexed by a variable. With LANES compilers do not know that the step is 1: written out, the
  // epilogue is up to three quarters of the kernel's compile time on software Vulkan.
  var sums = array<vec4f, 16>(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15);
  let step = 1u + select(0u, params.size.x >> 31u, LANES > 1u);
  for (var i = 0u; i < min(ROWS, params.size.x - row); i += step) { finish(batch, row + i, column, sums[i]); }
}
