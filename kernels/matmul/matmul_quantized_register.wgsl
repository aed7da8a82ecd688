// y = epilogue(A [M, K] · Wᵗ), W [N, K] quantised, dequantised in registers: no workgroup memory, no barrier. An invocation owns ROWS rows of one
// granule of four columns. With LANES = 8 (library lanes_subgroup, WORKGROUP = subgroup size 8) each neighbour loads one granule of a group of A
// and values are broadcast. A row adds up its terms in their order, each weight being exact in f32, so it has the same bits in any number of rows.
// K is a multiple of 4, A lies [M, K]. Grid: (ceil(M / ROWS), ceil(N / 4 / WORKGROUP)).
//#use quantized_bindings
//#use quantized_scales_each as g
//#use matmul_io
//#use f32 as a
//#use quantized_int4 as b
//#use norm_none as n
//#use lanes_none as s
const WORKGROUP = 64u; // invocations
const LANES = 1u; // 1 or 8
const ROWS = 8u; // 1, 2, 4, 8 or 16
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
fn matmul_quantized_register(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x * ROWS;
  let column = (group.y * WORKGROUP + lane) * 4u;
  let columns = columns_from(column);
  var at_b = vec4u(params.b.x / 4u) + columns * (params.b.z / 4u);
  let at_scale = vec4u(params.a.z) + columns * params.b.y;
  var held_scales: array<vec4u, 4>;
  var at_a: array<u32, ROWS>;
  var sums: array<vec4f, ROWS>;
  for (var r = 0u; r < ROWS; r++) { //#unroll
    at_a[r] = (params.a.x + min(row + r, params.size.x - 1u) * params.a.y) / 4u;
  }
  var rstds: array<f32, ROWS>;
  if (NORM) {
    for (var r = 0u; r < ROWS; r += 4u) {
      let four = rstds_n((params.a.x + min(vec4u(row + r) + vec4u(0u, 1u, 2u, 3u), vec4u(params.size.x - 1u)) * params.a.y) / 4u, lane);
      for (var j = 0u; j < min(4u, ROWS); j++) { rstds[r + j] = four[j]; }
    }
  }
  for (var k = 0u; k < params.b.z / (4u * LOADS_b); k++) {
    var held: array<vec4f, ROWS>;
    if (LANES > 1u) {
      let gain = load_gain(k * 8u + lane % LANES);
      for (var r = 0u; r < ROWS; r++) { //#unroll
        held[r] = load_a(at_a[r], k * 8u + lane % LANES, rstds[r], gain);
      }
    }
    let scale = next_scales_g(&held_scales, at_scale, k);
    for (var l = 0u; l < LOADS_b; l++) {
      let p0 = b[at_b.x];
      let p1 = b[at_b.y];
      let p2 = b[at_b.z];
      let p3 = b[at_b.w];
      at_b += vec4u(1u);
      for (var part = 0u; part < GRANULES_b; part += AT_ONCE) {
        for (var i = 0u; i < AT_ONCE; i++) { //#unroll
          let word = (part + i) * 4u / VALUES_b;
          let quad = i % (VALUES_b / 4u);
          let w = transpose(mat4x4f(raised_b(p0[word], quad), raised_b(p1[word], quad), raised_b(p2[word], quad), raised_b(p3[word], quad)));
          let w0 = w[0] * (scale * (1 / POWERS_b.x));
          let w1 = w[1] * (scale * (1 / POWERS_b.y));
          let w2 = w[2] * (scale * (1 / POWERS_b.z));
          let w3 = w[3] * (scale * (1 / POWERS_b.w));
          let granule = l * GRANULES_b + part + i;
          var gain: vec4f;
          if (LANES == 1u) { gain = load_gain(k * 8u + granule); }
          for (var r = 0u; r < ROWS; r++) { //#unroll
            var x: vec4f;
            if (LANES > 1u) { x = share_s(held[r], granule); } else { x = load_a(at_a[r], k * 8u + granule, rstds[r], gain); }
            sums[r] = fma(vec4f(x.w), w3, fma(vec4f(x.z), w2, fma(vec4f(x.y), w1, fma(vec4f(x.x), w0, sums[r]))));
          }
        }
      }
    }
  }
  if (column >= params.size.y) { return; }
  // A copy: the sums themselves must not be indexed by a variable. The step is that of matmul_register.wgsl.
  var results = sums;
  let step = 1u + select(0u, params.size.x >> 31u, LANES > 1u);
  for (var done = 0u; done < min(ROWS, params.size.x - row); done += step) { finish(vec2u(), row + done, column, results[done]); }
}
