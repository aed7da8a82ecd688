// What the gradient kernels add to attention_block: rows of g.
// A chunk of rows of g into a tile; granules beyond the head and rows beyond the last are 0.
fn load_g(to: u32, head: u32, first: u32, last: u32, chunk: u32, lane: u32) {
  for (var e = lane; e < ROWS * CHUNK; e += 64u) {
    let c = chunk * CHUNK + e % CHUNK;
    let row = head + min(first + e / CHUNK, last) * params.g.w;
    var x = vec4f();
    if (c < params.granules && first + e / CHUNK <= last) { x = unpack_g(g[row + c]); }
    tiles[to + (e / CHUNK) * STRIDE + e % CHUNK] = x;
  }
}
