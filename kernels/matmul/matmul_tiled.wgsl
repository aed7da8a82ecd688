// y[z] = epilogue(A[z] [M, K] · B[z] [K, N]) for GPUs: a workgroup computes a tile of BM × BN, BK terms at a time through workgroup memory; an
// invocation owns 8 × 8 of it, as four blocks of 4 × 4 (halves of the tile apart: neighbours read neighbouring words). Both operands lie in
// workgroup memory with the terms outside: [BK][BM / 4] and [BK][BN / 4] granules. TRANS_A: A lies [K, M]; TRANS_B: B lies [N, K].
// K is a multiple of 4 unless A lies [K, M] and B [K, N]. Grid: (ceil(M / BM), ceil(N / BN), batches).
//#use matmul_bindings
//#use matmul_io
//#use f32 as a
//#use f32 as b
const ACROSS_M = 8u; // invocations along M; tile rows / 8
const ACROSS_N = 8u; // invocations along N; tile columns / 8
const BK = 16u; // terms in workgroup memory
const TRANS_A = false;
const TRANS_B = false;
const WORKGROUP = ACROSS_M * ACROSS_N;
const QUADS_M = ACROSS_M * 2u; // granules of four rows
const QUADS_N = ACROSS_N * 2u;
@group(0) @binding(0) var<storage, read> a: array<Pack_a>;
@group(0) @binding(1) var<storage, read> b: array<Pack_b>;
var<workgroup> tile_a: array<vec4f, BK * QUADS_M>;
var<workgroup> tile_b: array<vec4f, BK * QUADS_N>;

// Loads are made at an index that is always good and then left out: `if (…) { load }` makes compilers wait for each load before the next.
fn among(block: mat4x4f, term: u32) -> mat4x4f {
  let counts = term < params.size.z;
  return mat4x4f(select(vec4f(), block[0], counts), select(vec4f(), block[1], counts), select(vec4f(), block[2], counts), select(vec4f(), block[3], counts));
}

// Four rows by four terms of A from (row, term), terms outside; zero beyond the last term, rows beyond the last are those of the last.
fn block_a(first: u32, row: u32, term: u32) -> mat4x4f {
  let rows = vec4u(row) + vec4u(0u, 1u, 2u, 3u);
  if (TRANS_A) {
    let at = first + min(row, params.size.x - 1u) / 4u;
    let step = params.a.z / 4u;
    var block = mat4x4f();
    for (var i = 0u; i < 4u; i++) {
      let x = unpack_a(a[at + min(term + i, params.size.z - 1u) * step]);
      block[i] = select(vec4f(), x, term + i < params.size.z);
    }
    return block;
  }
  let at = vec4u(first + min(term, params.size.z - 1u) / 4u) + min(rows, vec4u(params.size.x - 1u)) * (params.a.y / 4u);
  return among(transpose(mat4x4f(unpack_a(a[at.x]), unpack_a(a[at.y]), unpack_a(a[at.z]), unpack_a(a[at.w]))), term);
}

// The same of four columns of B.
fn block_b(first: u32, column: u32, term: u32) -> mat4x4f {
  let columns = vec4u(column) + vec4u(0u, 1u, 2u, 3u);
  if (!TRANS_B) {
    let at = first + min(column, params.size.y - 1u) / 4u;
    let step = params.b.y / 4u;
    var block = mat4x4f();
    for (var i = 0u; i < 4u; i++) {
      let x = unpack_b(b[at + min(term + i, params.size.z - 1u) * step]);
      block[i] = select(vec4f(), x, term + i < params.size.z);
    }
    return block;
  }
  let at = vec4u(first + min(term, params.size.z - 1u) / 4u) + min(columns, vec4u(params.size.y - 1u)) * (params.b.z / 4u);
  return among(transpose(mat4x4f(unpack_b(b[at.x]), unpack_b(b[at.y]), unpack_b(b[at.z]), unpack_b(b[at.w]))), term);
}

@compute @workgroup_size(WORKGROUP)
fn matmul_tiled(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let batch = batch_of(group.z);
  let first_a = (params.a.x + along(batch, params.batches.x, params.batches.y)) / 4u;
  let first_b = (params.b.x + along(batch, params.batches.z, params.batches.w)) / 4u;
  let across = lane % ACROSS_N;
  let down = lane / ACROSS_N;
  var l0 = vec4f(); var r0 = vec4f(); // row 0: left and right granule
  var l1 = vec4f(); var r1 = vec4f(); // row 1: left and right granule
  var l2 = vec4f(); var r2 = vec4f(); // row 2: left and right granule
  var l3 = vec4f(); var r3 = vec4f(); // row 3: left and right granule
  var l4 = vec4f(); var r4 = vec4f(); // row 4: left and right granule
  var l5 = vec4f(); var r5 = vec4f(); // row 5: left and right granule
  var l6 = vec4f(); var r6 = vec4f(); // row 6: left and right granule
  var l7 = vec4f(); var r7 = vec4f(); // row 7: left and right granule
  for (var term = 0u; term < params.size.z; term += BK) {
    for (var i = lane; i < QUADS_M * BK / 4u; i += WORKGROUP) {
      let quad = i % QUADS_M;
      let at = i / QUADS_M * 4u;
      let block = block_a(first_a, (group.x * QUADS_M + quad) * 4u, term + at);
      tile_a[at * QUADS_M + quad] = block[0];
      tile_a[(at + 1u) * QUADS_M + quad] = block[1];
      tile_a[(at + 2u) * QUADS_M + quad] = block[2];
      tile_a[(at + 3u) * QUADS_M + quad] = block[3];
    }
    for (var i = lane; i < QUADS_N * BK / 4u; i += WORKGROUP) {
      let quad = i % QUADS_N;
      let at = i / QUADS_N * 4u;
      let block = block_b(first_b, (group.y * QUADS_N + quad) * 4u, term + at);
      tile_b[at * QUADS_N + quad] = block[0];
      tile_b[(at + 1u) * QUADS_N + quad] = block[1];
      tile_b[(at + 2u) * QUADS_N + quad] = block[2];
      tile_b[(at + 3u) * QUADS_N + quad] = block[3];
    }
    workgroupBarrier();
    for (var k = 0u; k < BK; k++) {
      let top = tile_a[k * QUADS_M + down];
      let bottom = tile_a[k * QUADS_M + ACROSS_M + down];
      let left = tile_b[k * QUADS_N + across];
      let right = tile_b[k * QUADS_N + ACROSS_N + across];
      l0 = fma(vec4f(top.x), left, l0); r0 = fma(vec4f(top.x), right, r0);
      l1 = fma(vec4f(top.y), left, l1); r1 = fma(vec4f(top.y), right, r1);
      l2 = fma(vec4f(top.z), left, l2); r2 = fma(vec4f(top.z), right, r2);
      l3 = fma(vec4f(top.w), left, l3); r3 = fma(vec4f(top.w), right, r3);
      l4 = fma(vec4f(bottom.x), left, l4); r4 = fma(vec4f(bottom.x), right, r4);
      l5 = fma(vec4f(bottom.y), left, l5); r5 = fma(vec4f(bottom.y), right, r5);
      l6 = fma(vec4f(bottom.z), left, l6); r6 = fma(vec4f(bottom.z), right, r6);
      l7 = fma(vec4f(bottom.w), left, l7); r7 = fma(vec4f(bottom.w), right, r7);
    }
    workgroupBarrier();
  }
  // Quarter by quarter: an array of all sums with an index that is not known when compiling would lie in memory.
  var quarter = mat4x4f(l0, l1, l2, l3);
  var next = mat4x4f(l4, l5, l6, l7);
  var third = mat4x4f(r0, r1, r2, r3);
  // A bound that compilers do not know: unrolled, the epilogue would be there 16 times.
  for (var i = 0u; i < min(4u, params.size.x * 4u); i++) {
    let row = (group.x * QUADS_M + (i % 2u) * ACROSS_M + down) * 4u;
    let column = (group.y * QUADS_N + (i / 2u) * ACROSS_N + across) * 4u;
    for (var e = 0u; e < 4u; e++) {
      if (row + e < params.size.x && column < params.size.y) { finish(batch, row + e, column, quarter[e]); }
    }
    quarter = next;
    next = third;
    third = mat4x4f(r4, r5, r6, r7);
  }
}
