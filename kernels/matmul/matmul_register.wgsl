// y[z] = epilogue(A[z] [M, K] · B[z] [K, N]) in registers: no workgroup memory, no barrier. An invocation owns ROWS rows of one granule of four
// columns. Its LANES neighbours share the loads of A: with LANES = 1 each loads what it needs (same addresses), else (library lanes_subgroup,
// WORKGROUP = LANES = subgroup size) each loads a part and values are broadcast. TRANS_A: A lies [K, M]; TRANS_B: B lies [N, K].
// K is a multiple of 4 unless A lies [K, M] and B [K, N]. PANELS (not with TRANS_A, TRANS_B or NORM): both operands are packed by matmul_panels, ROWS
// and 4 · WORKGROUP wide, so that addresses step by constants. Grid: (ceil(M / ROWS), ceil(N / 4 / WORKGROUP), batches): workgroups
// that follow one another read the same columns of B.
// SYMMETRIC (4 rows or more): y and the residual equal their transposes: tiles above the diagonal are written by those below.
// Loops over accumulators are written out: others would put them in memory on software Vulkan.
//#use matmul_bindings
//#use matmul_io
//#use f32 as a
//#use f32 as b
//#use norm_none as n
//#use lanes_none as s
const WORKGROUP = 64u; // invocations
const LANES = 1u; // 1, or the subgroup size
const ROWS = 8u; // 4, 8, 16 or 32, a multiple of LANES if above it; also 1 or 2 if A lies [M, K]
const TRANS_A = false;
const TRANS_B = false;
const PANELS = false;
const SYMMETRIC = false;
const QUADS = max(1u, ROWS / 4u);
const HELD = max(1u, ROWS / LANES); // granules of A that an invocation loads for four terms
@group(0) @binding(0) var<storage, read> a: array<Pack_a>;
@group(0) @binding(1) var<storage, read> b: array<Pack_b>;

// Granule of A that is load `i` of invocation `lane`, for the first four terms.
fn address_a(first: u32, row: u32, i: u32, lane: u32) -> u32 {
  let id = (i * LANES + lane % LANES) % ROWS;
  if (PANELS) { return first + row * (params.size.z / 4u) + id; }
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
  if (SYMMETRIC && row + ROWS <= group.y * (4u * WORKGROUP)) { return; }
  let column = (group.y * WORKGROUP + lane) * 4u;
  let last = params.size.y - 1u;
  let first_a = (params.a.x + along(batch, params.batches.x, params.batches.y)) / 4u;
  let first_b = (params.b.x + along(batch, params.batches.z, params.batches.w)) / 4u;
  // Granules from one step of four terms to the next.
  let step_a = select(select(1u, params.a.z, TRANS_A), ROWS, PANELS);
  let step_b = select(select(params.b.y, 1u, TRANS_B), 4u * WORKGROUP, PANELS);
  var at_a: array<u32, HELD>;
  for (var i = 0u; i < HELD; i++) { //#unroll
    at_a[i] = address_a(first_a, row, i, lane);
  }
  let term = params.b.y / 4u;
  let here = first_b + min(column, last) / 4u;
  var at_b = select(
    vec4u(here, here + term, here + 2u * term, here + 3u * term),
    first_b + columns_from(column) * (params.b.z / 4u),
    TRANS_B,
  );
  if (PANELS) { at_b = vec4u(first_b + group.y * WORKGROUP * params.size.z + lane) + vec4u(0u, 1u, 2u, 3u) * WORKGROUP; }
  // Places beyond ROWS and HELD are for code with TRANS_A, which compiles for 1 and 2 rows too.
  var sums: array<vec4f, max(4u, ROWS)>;
  // With NORM: a factor for the row of each load.
  var factors: array<f32, HELD>;
  if (NORM) {
    for (var i = 0u; i < ROWS; i += 4u) {
      let four = rstds_n(first_a + min(vec4u(row + i) + vec4u(0u, 1u, 2u, 3u), vec4u(params.size.x - 1u)) * (params.a.y / 4u), lane);
      for (var j = 0u; j < min(4u, ROWS); j++) {
        for (var l = 0u; l < HELD; l++) {
          factors[l] = select(factors[l], four[j], (l * LANES + lane % LANES) % ROWS == i + j);
        }
      }
    }
  }
  var held: array<vec4f, max(4u, HELD)>;
  for (var k = 0u; k < params.size.z / 4u; k++) {
    var gain = vec4f();
    if (NORM) { gain = gain_at(k); }
    let piece = at_a[0];
    for (var i = 0u; i < HELD; i++) { //#unroll
      held[i] = normed(unpack_a(a[select(at_a[i], piece + i * LANES, PANELS)]), factors[i], gain);
      at_a[i] += step_a;
    }
    let at = select(at_b, vec4u(at_b.x) + vec4u(0u, 1u, 2u, 3u) * WORKGROUP, PANELS);
    var w = mat4x4f(unpack_b(b[at.x]), unpack_b(b[at.y]), unpack_b(b[at.z]), unpack_b(b[at.w]));
    at_b += vec4u(step_b);
    if (TRANS_B) { w = transpose(w); }
    if (TRANS_A) {
      for (var q = 0u; q < QUADS; q++) { //#unroll
        for (var t = 0u; t < 4u; t++) { //#unroll
          let v = share_s(held[(t * QUADS + q) / LANES], (t * QUADS + q) % LANES);
          for (var r = 0u; r < 4u; r++) { //#unroll
            sums[q * 4u + r] = fma(vec4f(v[r]), w[t], sums[q * 4u + r]);
          }
        }
      }
    } else {
      for (var r = 0u; r < ROWS; r++) { //#unroll
        let v = share_s(held[r / LANES], r % LANES);
        for (var t = 0u; t < 4u; t++) { //#unroll
          sums[r] = fma(vec4f(v[t]), w[t], sums[r]);
        }
      }
    }
  }
  // Terms beyond the last four: both operands lie with the terms outside.
  if (TRANS_A && !TRANS_B) {
    let quads = (params.size.x - 1u) / 4u;
    for (var k = params.size.z & ~3u; k < params.size.z; k++) {
      let w = unpack_b(b[here + k * term]);
      for (var q = 0u; q < QUADS; q++) { //#unroll
        let v = unpack_a(a[first_a + k * (params.a.z / 4u) + min(row / 4u + q, quads)]);
        for (var r = 0u; r < 4u; r++) { //#unroll
          sums[q * 4u + r] = fma(vec4f(v[r]), w, sums[q * 4u + r]);
        }
      }
    }
  }
  if (column > last) { return; }
  // A copy: the accumulators themselves must not be indexed by a variable. With LANES compilers do not know that the step is 1: written out, the
  // epilogue is up to three quarters of the kernel's compile time on software Vulkan.
  var results = sums;
  let step = 1u + select(0u, params.size.x >> 31u, LANES > 1u);
  for (var done = 0u; done < min(ROWS, params.size.x - row); done += step) { finish(batch, row + done, column, results[done]); }
  if (SYMMETRIC) {
    for (var done = 0u; done < ROWS; done += 4u) {
      // Four rows of this tile are four columns there.
      let across = row + done;
      let tile = across / (4u * WORKGROUP) * (4u * WORKGROUP);
      if (across > last) { break; }
      for (var j = 0u; j < min(4u, params.size.x - column); j += step) {
        if ((column + j) / ROWS * ROWS + ROWS > tile) { continue; }
        finish(batch, column + j, across, vec4f(results[done][j], results[done + 1u][j], results[done + 2u][j], results[done + 3u][j]));
      }
    }
  }
}
