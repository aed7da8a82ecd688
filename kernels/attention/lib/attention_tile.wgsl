// What the register kernels of attention share: tiles of ROWS rows and COLUMNS columns. A lane holds the scores of the rows lane, lane + LANES, …
// for all columns, and the sums of its granules for all rows. Needs the libraries attention_keys and attention_range, and lanes in slot s.
// Loops are written out: others over the sums would put them in memory on software Vulkan.
const OWN = ROWS / LANES; // rows of a lane
const HELD = COLUMNS / LANES; // columns that a lane loads
const QUADS = COLUMNS / 4u;
// Scores: (row of the lane) · QUADS + (column / 4). Sums: (row of the tile) · CHUNKS + chunk. Weights: [row of the lane][column].
alias Scores = array<vec4f, OWN * QUADS>;
alias Sums = array<vec4f, ROWS * CHUNKS>;
alias Weights = array<array<f32, COLUMNS>, OWN>;
// A copy of the sums by component, which may be indexed by a variable.
alias Results = array<array<f32, ROWS * CHUNKS>, 4>;
alias Own = array<f32, OWN>;
// Offsets of the rows, or columns, first + lane, first + lane + LANES, …; those beyond the last repeat it.
fn rows_of(at: ptr<function, array<u32, OWN>>, head: u32, first: u32, last: u32, step: u32, lane: u32) {
  for (var m = 0u; m < OWN; m++) { //#unroll
    (*at)[m] = head + min(first + m * LANES + lane, last) * step;
  }
}
fn columns_of(at: ptr<function, array<u32, HELD>>, head: u32, first: u32, last: u32, step: u32, lane: u32) {
  for (var e = 0u; e < HELD; e++) { //#unroll
    (*at)[e] = head + min(first + e * LANES + lane, last) * step;
  }
}
// Document ids of the columns, as columns_of lays them. This loop is not written out: it rarely runs, and each load is 40 blocks of code.
fn ids_of(ids: ptr<function, array<u32, HELD>>, b: u32, first: u32, last: u32, lane: u32) {
  if (!masked_by(DOCUMENTS)) { return; }
  for (var t = first; t < first + COLUMNS; t += LANES) { (*ids)[(t - first) / LANES] = document(b, min(t + lane, last)); }
}
// Granule of a lane in a chunk; those beyond the head repeat its last one.
fn granule_of(own: u32, chunk: u32) -> u32 { return min(own + chunk * LANES, params.granules - 1u); }
// Columns whose granules of a chunk are summed: none if the chunk lies behind the head.
fn columns_in(slice: u32, chunk: u32, columns: u32) -> u32 { return select(0u, columns, (slice * CHUNKS + chunk) * LANES < params.granules); }
// Values that the columns 4t … 4t + 3 have in `held`: column u is in held[u / LANES] of lane u % LANES.
fn quad_of(held: ptr<function, array<f32, HELD>>, t: u32) -> vec4f {
  return vec4f(
    get_one_s((*held)[(4u * t) / LANES], (4u * t) % LANES),
    get_one_s((*held)[(4u * t + 1u) / LANES], (4u * t + 1u) % LANES),
    get_one_s((*held)[(4u * t + 2u) / LANES], (4u * t + 2u) % LANES),
    get_one_s((*held)[(4u * t + 3u) / LANES], (4u * t + 3u) % LANES),
  );
}
fn ids_of_quad(held: ptr<function, array<u32, HELD>>, t: u32) -> vec4u {
  return vec4u(
    get_id_s((*held)[(4u * t) / LANES], (4u * t) % LANES),
    get_id_s((*held)[(4u * t + 1u) / LANES], (4u * t + 1u) % LANES),
    get_id_s((*held)[(4u * t + 2u) / LANES], (4u * t + 2u) % LANES),
    get_id_s((*held)[(4u * t + 3u) / LANES], (4u * t + 3u) % LANES),
  );
}
// Scores += rows · columns over a granule: `own` holds the rows of the lane, `held` the columns, as quad_of reads them.
fn add_scores(s: ptr<function, Scores>, own: ptr<function, array<vec4f, OWN>>, held: ptr<function, array<vec4f, HELD>>) {
  for (var t = 0u; t < QUADS; t++) { //#unroll
    let y = transpose(mat4x4f(
      get_s((*held)[(4u * t) / LANES], (4u * t) % LANES),
      get_s((*held)[(4u * t + 1u) / LANES], (4u * t + 1u) % LANES),
      get_s((*held)[(4u * t + 2u) / LANES], (4u * t + 2u) % LANES),
      get_s((*held)[(4u * t + 3u) / LANES], (4u * t + 3u) % LANES),
    ));
    for (var m = 0u; m < OWN; m++) { //#unroll
      let x = (*own)[m];
      (*s)[m * QUADS + t] = fma(vec4f(x.w), y[3], fma(vec4f(x.z), y[2], fma(vec4f(x.y), y[1], fma(vec4f(x.x), y[0], (*s)[m * QUADS + t]))));
    }
  }
}
fn keep_weights(w: ptr<function, Weights>, m: u32, t: u32, s: vec4f) {
  (*w)[m][4u * t] = s.x;
  (*w)[m][4u * t + 1u] = s.y;
  (*w)[m][4u * t + 2u] = s.z;
  (*w)[m][4u * t + 3u] = s.w;
}
// sums[r] += Σ (weight of row r) · (column) in a chunk, over the columns u, u + 1, … of a round, whose granules x holds.
fn add_rows(sums: ptr<function, Sums>, chunk: u32, w: ptr<function, Weights>, u: u32, x: ptr<function, array<vec4f, ROUND>>) {
  var own: array<f32, OWN * ROUND>;
  for (var e = 0u; e < ROUND; e++) { //#unroll
    for (var m = 0u; m < OWN; m++) { //#unroll
      own[e * OWN + m] = (*w)[m][u + e];
    }
  }
  for (var r = 0u; r < ROWS; r++) { //#unroll
    var sum = (*sums)[r * CHUNKS + chunk];
    for (var e = 0u; e < ROUND; e++) { //#unroll
      sum = fma(vec4f(get_one_s(own[e * OWN + r / LANES], r % LANES)), (*x)[e], sum);
    }
    (*sums)[r * CHUNKS + chunk] = sum;
  }
}
// Variables in a loop are cleared explicitly: software Vulkan clears arrays only in the first iteration.
fn clear(s: ptr<function, Scores>) {
  for (var t = 0u; t < OWN * QUADS; t++) { //#unroll
    (*s)[t] = vec4f();
  }
}
// sums[r] *= (factor of row r).
fn multiply_rows(sums: ptr<function, Sums>, x: ptr<function, Own>) {
  for (var r = 0u; r < ROWS; r++) { //#unroll
    let y = get_one_s((*x)[r / LANES], r % LANES);
    for (var chunk = 0u; chunk < CHUNKS; chunk++) { //#unroll
      (*sums)[r * CHUNKS + chunk] *= y;
    }
  }
}
fn multiply(sums: ptr<function, Sums>, x: f32) {
  for (var t = 0u; t < ROWS * CHUNKS; t++) { //#unroll
    (*sums)[t] *= x;
  }
}
fn results_of(sums: ptr<function, Sums>) -> Results {
  var results: Results;
  for (var i = 0u; i < ROWS * CHUNKS; i++) { //#unroll
    for (var e = 0u; e < 4u; e++) { //#unroll
      results[e][i] = (*sums)[i][e];
    }
  }
  return results;
}
fn result_at(results: ptr<function, Results>, i: u32) -> vec4f {
  return vec4f((*results)[0][i], (*results)[1][i], (*results)[2][i], (*results)[3][i]);
}
