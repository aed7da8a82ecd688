// Which tiles the tiled kernels of attention walk. Needs the library attention_keys and the constant COLUMNS of a tile.
// Tiles in the order first, last, second, …: runs of workgroups weigh the same in a causal head.
fn alternate(i: u32, tiles: u32) -> u32 { return select(i / 2u, tiles - 1u - i / 2u, i % 2u == 1u); }
// Smallest and largest document id of `count` positions from t0.
fn id_range(b: u32, t0: u32, count: u32, tokens: u32) -> vec2u {
  if (!masked_by(DOCUMENTS)) { return vec2u(); }
  var range = vec2u(document(b, t0));
  for (var t = t0 + 1u; t < min(t0 + count, tokens); t++) {
    let id = document(b, t);
    range = vec2u(min(range.x, id), max(range.y, id));
  }
  return range;
}
// First tile of columns from t0 on, before `end`, that has an id between those of `ids`; tiles that cannot match are passed over.
fn next_tile(b: u32, t0: u32, end: u32, ids: vec2u) -> u32 {
  if (!masked_by(DOCUMENTS)) { return t0; }
  var t = t0;
  while (t < end) {
    let range = id_range(b, t, COLUMNS, end);
    if (range.x <= ids.y && range.y >= ids.x) { break; }
    t += COLUMNS;
  }
  return t;
}
// Document ids of four positions.
fn documents(b: u32, at: vec4u) -> vec4u { return vec4u(document(b, at.x), document(b, at.y), document(b, at.z), document(b, at.w)); }
// Whether query i sees the four keys `key` with the ids `id`.
fn sees(b: u32, i: u32, key: vec4u, id: vec4u, begin: u32) -> vec4<bool> {
  let yes = (key >= vec4u(begin)) & (key < vec4u(end_key(i)));
  if (!masked_by(DOCUMENTS)) { return yes; }
  return yes & (id == vec4u(document(b, min(i, params.queries - 1u))));
}
