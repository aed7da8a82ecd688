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
