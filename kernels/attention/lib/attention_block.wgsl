// What the workgroup-memory kernels of attention share: tiles of 32 rows and 32 columns, and 8 × 8 invocations, of which (x, y) has the
// rows 4y … 4y + 3 and the columns, or the granule of a chunk, 4x … 4x + 3. Heads pass in chunks of 8 granules.
const ROWS = 32u;
const COLUMNS = 32u;
const CHUNK = 8u; // granules
// Granules from one row of a tile to the next: one more than it holds, for the banks of the memory.
const STRIDE = 9u;
// Tiles in workgroup memory: rows, columns, weights [row][column / 4].
const X = 0u;
const Y = ROWS * STRIDE;
const W = 2u * ROWS * STRIDE;
var<workgroup> tiles: array<vec4f, 3u * ROWS * STRIDE>;
// s[r] += row r · (columns 4x … 4x + 3) over the `count` granules of the chunk in X and Y.
fn add_scores(s: ptr<function, array<vec4f, 4>>, x: u32, y: u32, count: u32) {
  for (var g = 0u; g < count; g++) {
    let at = Y + x * 4u * STRIDE + g;
    let columns = transpose(mat4x4f(tiles[at], tiles[at + STRIDE], tiles[at + 2u * STRIDE], tiles[at + 3u * STRIDE]));
    for (var r = 0u; r < 4u; r++) { (*s)[r] += columns * tiles[X + (4u * y + r) * STRIDE + g]; }
  }
}
// sums[r] = Σ_j weights[row r][j] · granule x of column j, over the first `count` columns, for the chunk in Y.
fn weigh(sums: ptr<function, array<vec4f, 4>>, x: u32, y: u32, count: u32) {
  for (var r = 0u; r < 4u; r++) { (*sums)[r] = vec4f(); }
  for (var j = 0u; j < count; j += 4u) {
    let at = Y + j * STRIDE + x;
    let columns = mat4x4f(tiles[at], tiles[at + STRIDE], tiles[at + 2u * STRIDE], tiles[at + 3u * STRIDE]);
    for (var r = 0u; r < 4u; r++) { (*sums)[r] += columns * tiles[W + (4u * y + r) * STRIDE + j / 4u]; }
  }
}
// A chunk of rows of q into a tile; granules beyond the head and rows beyond the last are 0.
fn load_q(to: u32, head: u32, first: u32, last: u32, chunk: u32, lane: u32) {
  for (var e = lane; e < ROWS * CHUNK; e += 64u) {
    let g = chunk * CHUNK + e % CHUNK;
    let row = head + min(first + e / CHUNK, last) * params.q.w;
    var x = vec4f();
    if (g < params.granules && first + e / CHUNK <= last) { x = unpack_q(q[row + g]); }
    tiles[to + (e / CHUNK) * STRIDE + e % CHUNK] = x;
  }
}
// A chunk of rows of k into a tile; granules beyond the head and rows beyond the last are 0.
fn load_k(to: u32, head: u32, first: u32, last: u32, chunk: u32, lane: u32) {
  for (var e = lane; e < ROWS * CHUNK; e += 64u) {
    let g = chunk * CHUNK + e % CHUNK;
    let row = head + min(first + e / CHUNK, last) * params.k.w;
    var x = vec4f();
    if (g < params.granules && first + e / CHUNK <= last) { x = unpack_k(k[row + g]); }
    tiles[to + (e / CHUNK) * STRIDE + e % CHUNK] = x;
  }
}
// A chunk of rows of v into a tile; granules beyond the head and rows beyond the last are 0.
fn load_v(to: u32, head: u32, first: u32, last: u32, chunk: u32, lane: u32) {
  for (var e = lane; e < ROWS * CHUNK; e += 64u) {
    let g = chunk * CHUNK + e % CHUNK;
    let row = head + min(first + e / CHUNK, last) * params.v.w;
    var x = vec4f();
    if (g < params.granules && first + e / CHUNK <= last) { x = unpack_k(v[row + g]); }
    tiles[to + (e / CHUNK) * STRIDE + e % CHUNK] = x;
  }
}
// Whether query i sees the four keys `key` with the ids `id`.
fn seen(b: u32, i: u32, key: vec4u, id: vec4u, begin: u32) -> vec4<bool> {
  let yes = (key >= vec4u(begin)) & (key < vec4u(end_key(i)));
  if (!masked_by(DOCUMENTS)) { return yes; }
  return yes & (id == vec4u(document(b, min(i, params.queries - 1u))));
}
