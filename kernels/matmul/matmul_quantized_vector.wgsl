// y = epilogue(A [M, K] · Wᵗ), W [N, K] quantised, for a few rows: bound by reading W once. LANES invocations share four columns: each takes every
// LANES-th load of 16 bytes, and they add up at the end (library sum_subgroup, or sum_workgroup with LANES = WORKGROUP).
// K is a multiple of 4, A lies [M, K]. Grid: (ceil(M / ROWS), ceil(N / 4 / (WORKGROUP / LANES))).
//#use quantized_bindings
//#use quantized_scales_each as g
//#use matmul_io
//#use f32 as a
//#use quantized_int4 as b
//#use norm_none as n
//#use sum_workgroup as s
const WORKGROUP = 64u; // invocations
const LANES = 64u;
const ROWS = 1u; // 1, 2, 4 or 8, at most LANES
const AT_ONCE = 2u; // granules of a load that are written out: 2, or all
@group(0) @binding(0) var<storage, read> a: array<Pack_a>;
@group(0) @binding(1) var<storage, read> b: array<vec4u>;

// Granule k of a row of A from granule `first` on; zeros beyond its end, where the last group of weights has zeros too.
fn load_a(first: u32, k: u32, rstd: f32, gain: vec4f) -> vec4f {
  let last = params.size.z / 4u - 1u;
  return select(vec4f(), normed(unpack_a(a[first + min(k, last)]), rstd, gain), k <= last);
}
// The norm's weights for granule k.
fn load_gain(k: u32) -> vec4f {
  if (NORM) { return gain_at(min(k, params.size.z / 4u - 1u)); }
  return vec4f();
}

//#use size_any as z
@compute @workgroup_size(WORKGROUP)
fn matmul_quantized_vector(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let lane = index % LANES;
  let row = group.x * ROWS;
  let column = (group.y * (WORKGROUP / LANES) + index / LANES) * 4u;
  let columns = columns_from(column);
  let at_b = vec4u(params.b.x / 4u) + columns * (params.b.z / 4u);
  let at_scale = vec4u(params.a.z) + columns * params.b.y;
  let loads = params.b.z / 4u;
  var at_a: array<u32, ROWS>;
  var sums: array<vec4f, 8>;
  for (var r = 0u; r < ROWS; r++) { //#unroll
    at_a[r] = (params.a.x + min(row + r, params.size.x - 1u) * params.a.y) / 4u;
  }
  var rstds: array<f32, ROWS>;
  if (NORM) {
    for (var r = 0u; r < ROWS; r += 4u) {
      let four = rstds_n((params.a.x + min(vec4u(row + r) + vec4u(0u, 1u, 2u, 3u), vec4u(params.size.x - 1u)) * params.a.y) / 4u, index);
      for (var j = 0u; j < min(4u, ROWS); j++) { rstds[r + j] = four[j]; }
    }
  }
  // All invocations go through as many rounds, as the sums at the end need them all; in the last some add what does not count.
  for (var round = 0u; round < loads; round += LANES) {
    let k = min(round + lane, loads - 1u);
    let counts = round + lane < loads;
    let p0 = b[at_b.x + k];
    let p1 = b[at_b.y + k];
    let p2 = b[at_b.z + k];
    let p3 = b[at_b.w + k];
    let at = at_scale + vec4u(k / LOADS_b);
    let scale = vec4f(scale_at(at.x), scale_at(at.y), scale_at(at.z), scale_at(at.w));
    // Set in each round: on software Vulkan, a variable without an initial value in a loop keeps that of the last round.
    var added: array<vec4f, ROWS>;
    for (var r = 0u; r < ROWS; r++) { //#unroll
      added[r] = vec4f();
    }
    for (var part = 0u; part < GRANULES_b; part += AT_ONCE) {
      for (var i = 0u; i < AT_ONCE; i++) { //#unroll
        let word = (part + i) * 4u / VALUES_b;
        let quad = i % (VALUES_b / 4u);
        let w = transpose(mat4x4f(values_b(p0[word], quad), values_b(p1[word], quad), values_b(p2[word], quad), values_b(p3[word], quad)));
        let gain = load_gain(k * GRANULES_b + part + i);
        for (var r = 0u; r < ROWS; r++) { //#unroll
          let x = load_a(at_a[r], k * GRANULES_b + part + i, rstds[r], gain);
          added[r] = fma(vec4f(x.w), w[3], fma(vec4f(x.z), w[2], fma(vec4f(x.y), w[1], fma(vec4f(x.x), w[0], added[r]))));
        }
      }
    }
    for (var r = 0u; r < ROWS; r++) { //#unroll
      sums[r] = select(sums[r], fma(added[r], scale, sums[r]), counts);
    }
  }
  let sum = sum_s(sums, lane);
  if (lane < min(ROWS, params.size.x - row) && column < params.size.y) { finish(vec2u(), row + lane, column, sum); }
}
