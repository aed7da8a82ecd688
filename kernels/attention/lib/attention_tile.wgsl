// What the register kernels of attention share: tiles of 8 rows and 4 · LANES columns. A lane holds the scores of the columns lane,
// lane + LANES, … for all rows, and the sums of its granules for all rows. Needs the libraries attention_keys and attention_range,
// and lanes in slot s.
// Repeated lines are written out: a loop over the sums would put them in memory on software Vulkan.
const ROWS = 8u;
const COLUMNS = 4u * LANES;
// Offsets of the rows that a lane loads: row r of the tile is in at[r / LANES] of lane r % LANES. Rows beyond the last repeat it.
fn rows_of(at: ptr<function, array<u32, 8>>, head: u32, first: u32, last: u32, step: u32, lane: u32) {
  (*at)[0] = head + min(first + (0u * LANES + lane) % ROWS, last) * step;
  if (ROWS / LANES > 1u) { (*at)[1] = head + min(first + (1u * LANES + lane) % ROWS, last) * step; }
  if (ROWS / LANES > 2u) { (*at)[2] = head + min(first + (2u * LANES + lane) % ROWS, last) * step; }
  if (ROWS / LANES > 3u) { (*at)[3] = head + min(first + (3u * LANES + lane) % ROWS, last) * step; }
  if (ROWS / LANES > 4u) { (*at)[4] = head + min(first + (4u * LANES + lane) % ROWS, last) * step; }
  if (ROWS / LANES > 5u) { (*at)[5] = head + min(first + (5u * LANES + lane) % ROWS, last) * step; }
  if (ROWS / LANES > 6u) { (*at)[6] = head + min(first + (6u * LANES + lane) % ROWS, last) * step; }
  if (ROWS / LANES > 7u) { (*at)[7] = head + min(first + (7u * LANES + lane) % ROWS, last) * step; }
}
// Document ids of these rows.
fn ids_of_rows(held: ptr<function, array<u32, 8>>, b: u32, first: u32, last: u32, lane: u32) {
  (*held)[0] = document(b, min(first + (0u * LANES + lane) % ROWS, last));
  if (ROWS / LANES > 1u) { (*held)[1] = document(b, min(first + (1u * LANES + lane) % ROWS, last)); }
  if (ROWS / LANES > 2u) { (*held)[2] = document(b, min(first + (2u * LANES + lane) % ROWS, last)); }
  if (ROWS / LANES > 3u) { (*held)[3] = document(b, min(first + (3u * LANES + lane) % ROWS, last)); }
  if (ROWS / LANES > 4u) { (*held)[4] = document(b, min(first + (4u * LANES + lane) % ROWS, last)); }
  if (ROWS / LANES > 5u) { (*held)[5] = document(b, min(first + (5u * LANES + lane) % ROWS, last)); }
  if (ROWS / LANES > 6u) { (*held)[6] = document(b, min(first + (6u * LANES + lane) % ROWS, last)); }
  if (ROWS / LANES > 7u) { (*held)[7] = document(b, min(first + (7u * LANES + lane) % ROWS, last)); }
}
// Document id of row r: in held[r / LANES] of lane r % LANES.
fn id_of_row(held: ptr<function, array<u32, 8>>, r: u32) -> u32 { return get_id_s((*held)[r / LANES], r % LANES); }
// s[r] += rows[r] · columns over a granule. Row r is in held[r / LANES] of lane r % LANES; y holds the columns' granules, transposed.
fn add_scores(s: ptr<function, array<vec4f, 8>>, held: ptr<function, array<vec4f, 8>>, y: mat4x4f) {
  (*s)[0] = add_score((*s)[0], get_s((*held)[0u / LANES], 0u % LANES), y);
  (*s)[1] = add_score((*s)[1], get_s((*held)[1u / LANES], 1u % LANES), y);
  (*s)[2] = add_score((*s)[2], get_s((*held)[2u / LANES], 2u % LANES), y);
  (*s)[3] = add_score((*s)[3], get_s((*held)[3u / LANES], 3u % LANES), y);
  (*s)[4] = add_score((*s)[4], get_s((*held)[4u / LANES], 4u % LANES), y);
  (*s)[5] = add_score((*s)[5], get_s((*held)[5u / LANES], 5u % LANES), y);
  (*s)[6] = add_score((*s)[6], get_s((*held)[6u / LANES], 6u % LANES), y);
  (*s)[7] = add_score((*s)[7], get_s((*held)[7u / LANES], 7u % LANES), y);
}
fn add_score(s: vec4f, x: vec4f, y: mat4x4f) -> vec4f {
  return fma(vec4f(x.w), y[3], fma(vec4f(x.z), y[2], fma(vec4f(x.y), y[1], fma(vec4f(x.x), y[0], s))));
}
// sums[r] += w[r].x · x.
fn add_rows(sums: ptr<function, array<vec4f, 8>>, w: ptr<function, array<vec4f, 8>>, x: vec4f) {
  (*sums)[0] = fma(vec4f((*w)[0].x), x, (*sums)[0]);
  (*sums)[1] = fma(vec4f((*w)[1].x), x, (*sums)[1]);
  (*sums)[2] = fma(vec4f((*w)[2].x), x, (*sums)[2]);
  (*sums)[3] = fma(vec4f((*w)[3].x), x, (*sums)[3]);
  (*sums)[4] = fma(vec4f((*w)[4].x), x, (*sums)[4]);
  (*sums)[5] = fma(vec4f((*w)[5].x), x, (*sums)[5]);
  (*sums)[6] = fma(vec4f((*w)[6].x), x, (*sums)[6]);
  (*sums)[7] = fma(vec4f((*w)[7].x), x, (*sums)[7]);
}
// The weights of columns t, t + LANES, … of all rows, from lane t.
fn weights(w: ptr<function, array<vec4f, 8>>, s: ptr<function, array<vec4f, 8>>, t: u32) {
  (*w)[0] = get_s((*s)[0], t);
  (*w)[1] = get_s((*s)[1], t);
  (*w)[2] = get_s((*s)[2], t);
  (*w)[3] = get_s((*s)[3], t);
  (*w)[4] = get_s((*s)[4], t);
  (*w)[5] = get_s((*s)[5], t);
  (*w)[6] = get_s((*s)[6], t);
  (*w)[7] = get_s((*s)[7], t);
}
// Brings the weights of the next column to the front.
fn turn(w: ptr<function, array<vec4f, 8>>) {
  (*w)[0] = (*w)[0].yzwx;
  (*w)[1] = (*w)[1].yzwx;
  (*w)[2] = (*w)[2].yzwx;
  (*w)[3] = (*w)[3].yzwx;
  (*w)[4] = (*w)[4].yzwx;
  (*w)[5] = (*w)[5].yzwx;
  (*w)[6] = (*w)[6].yzwx;
  (*w)[7] = (*w)[7].yzwx;
}
// Variables in a loop are cleared explicitly: software Vulkan clears arrays only in the first iteration.
fn clear(s: ptr<function, array<vec4f, 8>>) {
  (*s)[0] = vec4f();
  (*s)[1] = vec4f();
  (*s)[2] = vec4f();
  (*s)[3] = vec4f();
  (*s)[4] = vec4f();
  (*s)[5] = vec4f();
  (*s)[6] = vec4f();
  (*s)[7] = vec4f();
}
fn multiply(sums: ptr<function, array<vec4f, 8>>, x: vec4f, y: vec4f) {
  (*sums)[0] *= x.x;
  (*sums)[1] *= x.y;
  (*sums)[2] *= x.z;
  (*sums)[3] *= x.w;
  (*sums)[4] *= y.x;
  (*sums)[5] *= y.y;
  (*sums)[6] *= y.z;
  (*sums)[7] *= y.w;
}
// Moves row 1 to row 0 and so on: a walk over the rows without an index.
fn next_row(sums: ptr<function, array<vec4f, 8>>) {
  (*sums)[0] = (*sums)[1];
  (*sums)[1] = (*sums)[2];
  (*sums)[2] = (*sums)[3];
  (*sums)[3] = (*sums)[4];
  (*sums)[4] = (*sums)[5];
  (*sums)[5] = (*sums)[6];
  (*sums)[6] = (*sums)[7];
}
