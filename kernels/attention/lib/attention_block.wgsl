// What the workgroup-memory kernels of attention share: tiles of 32 rows and 64 columns, and 8 × 16 invocations, of which (y, x) has the rows
// 4y … 4y + 3 and the columns x, x + 16, x + 32, x + 48, or granule x of a part. Heads pass in chunks of 8 granules for the scores and in parts
// of 16 for what the weights multiply, of which 16 columns are in memory at a time.
// Less than 16 KiB and about 100 registers: 4 waves of 64 a SIMD on AMD (RDNA 2, 3, 4), 16 and more warps an SM on NVIDIA.
// Compilers drop the checks of an index whose range its own function shows: hence `lane % 16u` in each of them, and loops that end by `break`.
const WORKGROUP = 128u; // invocations
const ROWS = 32u;
const COLUMNS = 64u;
const CHUNK = 8u; // granules
const PART = 16u; // granules
const STEP = 16u; // columns that are weighed at a time
// Granules from one row of a tile to the next: one more than it holds, for the banks of the memory.
const STRIDE = 9u;
const WIDE = 17u;
// Tiles in workgroup memory: rows and columns [.][granule]; later, in their place, weights [row][column % 16], and the columns of a step.
const X = 0u;
const Y = ROWS * STRIDE;
const W = 0u;
const Z = ROWS * WIDE;
var<workgroup> tiles: array<vec4f, (ROWS + COLUMNS) * STRIDE>;
// Granule `e` of a chunk of rows, of columns.
fn put_row(e: u32, value: vec4f) { tiles[X + (e / CHUNK % ROWS) * STRIDE + e % CHUNK] = value; }
fn put_column(e: u32, value: vec4f) { tiles[Y + (e / CHUNK % COLUMNS) * STRIDE + e % CHUNK] = value; }
// Granule `e` of a step of a part, and which column of the tile it is of.
fn put_step(e: u32, value: vec4f) { tiles[Z + (e / PART % STEP) * WIDE + e % PART] = value; }
fn step_column(step: u32, e: u32) -> u32 { return step * 4u + e / PART % 4u + e / PART / 4u * 16u; }
// The smaller one, in a way that compilers do not see through: they would write out loops of so few turns, each of them for every part.
fn least(a: u32, b: u32) -> u32 { return a - (max(a, b) - b); }
// Four: the steps of a tile, and fours of columns of a step.
fn steps() -> u32 { return COLUMNS / STEP * least(1u, params.granules); }
// The weights of this invocation's row r and four columns.
fn put_weight(lane: u32, r: u32, value: vec4f) { tiles[W + (4u * (lane / 16u % 8u) + r % 4u) * WIDE + lane % 16u] = value; }
// sum + m · v, one product after the other.
fn add_product(sum: vec4f, m: mat4x4f, v: vec4f) -> vec4f {
  return fma(m[3], vec4f(v.w), fma(m[2], vec4f(v.z), fma(m[1], vec4f(v.y), fma(m[0], vec4f(v.x), sum))));
}
// s[r] += row r · (this invocation's columns) over the `count` granules of the chunk in X and Y.
fn add_scores(s: ptr<function, array<vec4f, 4>>, lane: u32, count: u32) {
  for (var i = 0u; i < least(CHUNK, count); i++) {
    let g = i % CHUNK;
    let at = Y + lane % 16u * STRIDE + g;
    let columns = transpose(mat4x4f(tiles[at], tiles[at + 16u * STRIDE], tiles[at + 32u * STRIDE], tiles[at + 48u * STRIDE]));
    for (var r = 0u; r < 4u; r++) { (*s)[r] = add_product((*s)[r], columns, tiles[X + (4u * (lane / 16u % 8u) + r) * STRIDE + g]); }
  }
}
// sums[r] += Σ weights[row r][j] · granule x of column j, over the columns of a step in Z.
fn weigh(sums: ptr<function, array<vec4f, 4>>, lane: u32, step: u32) {
  for (var i = 0u; i < steps(); i++) {
    let j = i % 4u;
    let at = Z + j * WIDE + lane % 16u;
    let columns = mat4x4f(tiles[at], tiles[at + 4u * WIDE], tiles[at + 8u * WIDE], tiles[at + 12u * WIDE]);
    for (var r = 0u; r < 4u; r++) { (*sums)[r] = add_product((*sums)[r], columns, tiles[W + (4u * (lane / 16u % 8u) + r) * WIDE + step % 4u * 4u + j]); }
  }
}
// Granule g of row t of q, k, v: zero beyond the head and the last row. Loaded at an index that is always good, so that many loads are
// under way at once.
fn granule_q(head: u32, t: u32, last: u32, g: u32) -> vec4f {
  let x = unpack_q(q[head + min(t, last) * params.q.w + min(g, params.granules - 1u)]);
  return select(vec4f(), x, g < params.granules && t <= last);
}
fn granule_k(head: u32, t: u32, last: u32, g: u32) -> vec4f {
  let x = unpack_k(k[head + min(t, last) * params.k.w + min(g, params.granules - 1u)]);
  return select(vec4f(), x, g < params.granules && t <= last);
}
fn granule_v(head: u32, t: u32, last: u32, g: u32) -> vec4f {
  let x = unpack_k(v[head + min(t, last) * params.v.w + min(g, params.granules - 1u)]);
  return select(vec4f(), x, g < params.granules && t <= last);
}
