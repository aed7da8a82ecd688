// y[z] = epilogue(A[z] [M, K] · B[z]ᵗ), B lying [N, K], for a few rows: bound by reading B once. LANES invocations share four columns: each takes
// every LANES-th granule of K, and they add up at the end (library sum_subgroup, or sum_workgroup with LANES = WORKGROUP).
// K is a multiple of 4, A lies [M, K]. Grid: (ceil(M / ROWS), ceil(N / 4 / (WORKGROUP / LANES)), batches).
//#use matmul_bindings
//#use matmul_io
//#use f32 as a
//#use f32 as b
//#use norm_none as n
//#use sum_workgroup as s
const WORKGROUP = 64u; // invocations
const LANES = 64u;
const ROWS = 1u; // 1, 2, 4 or 8, at most LANES
const AHEAD = 1u; // granules of each column that are on their way at once
@group(0) @binding(0) var<storage, read> a: array<Pack_a>;
@group(0) @binding(1) var<storage, read> b: array<Pack_b>;

// x · w for four columns, the rows of w: adds up over the terms of a granule.
fn add_terms(sum: vec4f, x: vec4f, w: mat4x4f) -> vec4f {
  return fma(vec4f(x.w), w[3], fma(vec4f(x.z), w[2], fma(vec4f(x.y), w[1], fma(vec4f(x.x), w[0], sum))));
}

//#use size_any as z
@compute @workgroup_size(WORKGROUP)
fn matmul_vector(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let batch = batch_of(group.z);
  let lane = index % LANES;
  let row = group.x * ROWS;
  let column = (group.y * (WORKGROUP / LANES) + index / LANES) * 4u;
  let granules = params.size.z / 4u;
  let at_b = (params.b.x + along(batch, params.batches.z, params.batches.w)) / 4u + columns_from(column) * (params.b.z / 4u);
  let first_a = (params.a.x + along(batch, params.batches.x, params.batches.y)) / 4u;
  let a0 = first_a + min(row + 0u, params.size.x - 1u) * (params.a.y / 4u);
  let a1 = first_a + min(row + 1u, params.size.x - 1u) * (params.a.y / 4u);
  let a2 = first_a + min(row + 2u, params.size.x - 1u) * (params.a.y / 4u);
  let a3 = first_a + min(row + 3u, params.size.x - 1u) * (params.a.y / 4u);
  let a4 = first_a + min(row + 4u, params.size.x - 1u) * (params.a.y / 4u);
  let a5 = first_a + min(row + 5u, params.size.x - 1u) * (params.a.y / 4u);
  let a6 = first_a + min(row + 6u, params.size.x - 1u) * (params.a.y / 4u);
  let a7 = first_a + min(row + 7u, params.size.x - 1u) * (params.a.y / 4u);
  let rstd_low = rstds_n(vec4u(a0, a1, a2, a3), index);
  var rstd_high = vec4f();
  if (ROWS > 4u) { rstd_high = rstds_n(vec4u(a4, a5, a6, a7), index); }
  var c0 = vec4f();
  var c1 = vec4f();
  var c2 = vec4f();
  var c3 = vec4f();
  var c4 = vec4f();
  var c5 = vec4f();
  var c6 = vec4f();
  var c7 = vec4f();
  // All invocations go through as many rounds, as the sums at the end need them all; in the last some add granules that do not count.
  for (var round = 0u; round < granules; round += LANES * AHEAD) {
    var loaded: array<Pack_b, 4u * AHEAD>;
    for (var e = 0u; e < AHEAD; e++) { //#unroll
      let k = min(round + e * LANES + lane, granules - 1u);
      loaded[4u * e] = b[at_b.x + k];
      loaded[4u * e + 1u] = b[at_b.y + k];
      loaded[4u * e + 2u] = b[at_b.z + k];
      loaded[4u * e + 3u] = b[at_b.w + k];
    }
    for (var e = 0u; e < AHEAD; e++) { //#unroll
      let k = min(round + e * LANES + lane, granules - 1u);
      let counts = round + e * LANES + lane < granules;
      let w = transpose(mat4x4f(unpack_b(loaded[4u * e]), unpack_b(loaded[4u * e + 1u]), unpack_b(loaded[4u * e + 2u]), unpack_b(loaded[4u * e + 3u])));
      var gain = vec4f();
      if (NORM) { gain = gain_at(k); }
      c0 = select(c0, add_terms(c0, normed(unpack_a(a[a0 + k]), rstd_low.x, gain), w), counts);
      if (ROWS > 1u) {
        c1 = select(c1, add_terms(c1, normed(unpack_a(a[a1 + k]), rstd_low.y, gain), w), counts);
      }
      if (ROWS > 2u) {
        c2 = select(c2, add_terms(c2, normed(unpack_a(a[a2 + k]), rstd_low.z, gain), w), counts);
        c3 = select(c3, add_terms(c3, normed(unpack_a(a[a3 + k]), rstd_low.w, gain), w), counts);
      }
      if (ROWS > 4u) {
        c4 = select(c4, add_terms(c4, normed(unpack_a(a[a4 + k]), rstd_high.x, gain), w), counts);
        c5 = select(c5, add_terms(c5, normed(unpack_a(a[a5 + k]), rstd_high.y, gain), w), counts);
        c6 = select(c6, add_terms(c6, normed(unpack_a(a[a6 + k]), rstd_high.z, gain), w), counts);
        c7 = select(c7, add_terms(c7, normed(unpack_a(a[a7 + k]), rstd_high.w, gain), w), counts);
      }
    }
  }
  let sum = sum_s(array<vec4f, 8>(c0, c1, c2, c3, c4, c5, c6, c7), lane);
  if (lane < min(ROWS, params.size.x - row) && column < params.size.y) { finish(batch, row + lane, column, sum); }
}
