// What the attention kernels on subgroup matrices share: a workgroup takes ROWS rows (queries, or keys), of which each subgroup owns CM, and walks
// the columns in tiles of COLUMNS. Needs the libraries attention_keys and attention_range, and components in slot c.
const CM = 8u; // rows, columns, terms of a subgroup matrix: as the device lists them
const CN = 8u;
const CK = 8u;
const LANES = 32u; // invocations of a subgroup, a multiple of CM
const WORKGROUP = 128u; // a multiple of LANES
const DEPTH = 16u; // elements of a head: a multiple of 16, CN and CK
const PART = 16u; // elements of a head that a workgroup computes of a result: DEPTH, or a half of it
const BLOCKS = 2u; // operands whose rows lie in workgroup memory, and as many whose columns do
const COLUMNS = 32u; // a multiple of CM, CN, CK and PER · SHARE
const HOLD = false; // the matrices of the rows lie in registers; with one operand
const ROWS = WORKGROUP / LANES * CM;
const SHARE = LANES / CM; // invocations that share a row of scores
const QUADS = COLUMNS / 4u / SHARE; // granules of its scores that one of them has
const PAIR = PER_c / 4u; // granules of components that make a unit; an invocation has as many next to each other
// Units from one line to the next: of a head; of scores, and of the probabilities that replace them. One more than the line has, for the banks.
const STEP = DEPTH / PER_c + 1u;
const STEP_SCORES = COLUMNS / 4u + 1u;
alias Left = subgroup_matrix_left<Component_c, CK, CM>;
alias Right = subgroup_matrix_right<Component_c, CN, CK>;
alias Sums = subgroup_matrix_result<f32, CN, CM>;
alias Held = array<Left, DEPTH / CK>;
alias Results = array<Sums, PART / CN>;

// Units of the rows of an operand, and of its columns in a tile; the columns come after the rows, or in their place.
const OWN = max(ROWS, COLUMNS) * STEP;
const BLOCK = COLUMNS * STEP;
const AT_BLOCK = select(BLOCKS * OWN, 0u, HOLD);
var<workgroup> block: array<Unit_c, max(BLOCKS * OWN, AT_BLOCK + BLOCKS * BLOCK)>;
var<workgroup> scores: array<Unit_c, ROWS * STEP_SCORES>;
// `count` rows of a head from `first` into `block` from `to`; those beyond the last are 0.
fn stage_q(to: u32, head: u32, first: u32, count: u32, lane: u32) {
  for (var i = lane; i < count * DEPTH / PER_c; i += WORKGROUP) {
    let row = first + i / (DEPTH / PER_c);
    let at = head + min(row, params.queries - 1u) * params.q.w + i % (DEPTH / PER_c) * PAIR;
    block[to + i / (DEPTH / PER_c) * STEP + i % (DEPTH / PER_c)] = select(Unit_c(), query_c(q[at], q[at + PAIR - 1u]), row < params.queries);
  }
}
fn stage_k(to: u32, head: u32, first: u32, count: u32, lane: u32) {
  for (var i = lane; i < count * DEPTH / PER_c; i += WORKGROUP) {
    let row = first + i / (DEPTH / PER_c);
    let at = head + min(row, params.keys - 1u) * params.k.w + i % (DEPTH / PER_c) * PAIR;
    block[to + i / (DEPTH / PER_c) * STEP + i % (DEPTH / PER_c)] = select(Unit_c(), key_c(k[at], k[at + PAIR - 1u]), row < params.keys);
  }
}
fn stage_v(to: u32, head: u32, first: u32, count: u32, lane: u32) {
  for (var i = lane; i < count * DEPTH / PER_c; i += WORKGROUP) {
    let row = first + i / (DEPTH / PER_c);
    let at = head + min(row, params.keys - 1u) * params.v.w + i % (DEPTH / PER_c) * PAIR;
    block[to + i / (DEPTH / PER_c) * STEP + i % (DEPTH / PER_c)] = select(Unit_c(), key_c(v[at], v[at + PAIR - 1u]), row < params.keys);
  }
}
// The e-th granule of a row of scores that the invocation with share `part` has.
fn quad_of(e: u32, part: u32) -> u32 { return (e / PAIR * SHARE + part) * PAIR + e % PAIR; }
// Matrix c of the subgroup's rows of the operand at `own`, and of rows j of the columns at `start` in `block`.
fn rows_at(own: u32, c: u32, subgroup: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&block, own + subgroup * CM * STEP + c * CK / PER_c, STEP);
}
fn columns_at(start: u32, j: u32, c: u32) -> Right {
  return subgroupMatrixLoad<Right, col_major>(&block, start + j * CN * STEP + c * CK / PER_c, STEP);
}
// Products of the subgroup's rows, of the operand at `own`, with the columns at `start` in `block`, into `scores`.
fn score(own: u32, start: u32, subgroup: u32) {
  var s: array<Sums, COLUMNS / CN>;
  for (var c = 0u; c < DEPTH / CK; c++) {
    let rows = rows_at(own, c, subgroup);
    for (var j = 0u; j < COLUMNS / CN; j++) { //#unroll
      s[j] = subgroupMatrixMultiplyAccumulate(rows, columns_at(start, j, c), s[j]);
    }
  }
  for (var j = 0u; j < COLUMNS / CN; j++) { //#unroll
    subgroupMatrixStore<row_major>(&scores, subgroup * CM * STEP_SCORES + j * CN / 4u, s[j], STEP_SCORES);
  }
}
// The same of rows that are held in registers.
fn score_held(held: ptr<function, Held>, start: u32, subgroup: u32) {
  var s: array<Sums, COLUMNS / CN>;
  for (var c = 0u; c < DEPTH / CK; c++) { //#unroll
    for (var j = 0u; j < COLUMNS / CN; j++) { //#unroll
      s[j] = subgroupMatrixMultiplyAccumulate((*held)[c], columns_at(start, j, c), s[j]);
    }
  }
  for (var j = 0u; j < COLUMNS / CN; j++) { //#unroll
    subgroupMatrixStore<row_major>(&scores, subgroup * CM * STEP_SCORES + j * CN / 4u, s[j], STEP_SCORES);
  }
}
// sums += weights in `scores` · the PART elements of COLUMNS rows that are in `block` from `from`.
fn weigh(sums: ptr<function, Results>, start: u32, subgroup: u32) {
  for (var t = 0u; t < COLUMNS / CK; t++) {
    let weights = subgroupMatrixLoad<Left, row_major>(&scores, subgroup * CM * STEP_SCORES + t * CK / PER_c, STEP_SCORES);
    for (var c = 0u; c < PART / CN; c++) { //#unroll
      let values = subgroupMatrixLoad<Right, row_major>(&block, start + t * CK * STEP + c * CN / PER_c, STEP);
      (*sums)[c] = subgroupMatrixMultiplyAccumulate(weights, values, (*sums)[c]);
    }
  }
}
// COLUMNS elements of the subgroup's rows of sums, from matrix `start` on, into `scores`; and back. With a computed index the sums would lie in memory
// from the start.
fn show(sums: ptr<function, Results>, start: u32, subgroup: u32) {
  for (var c = 0u; c < PART / CN; c++) { //#unroll
    if (c - c % (COLUMNS / CN) == start) {
      subgroupMatrixStore<row_major>(&scores, subgroup * CM * STEP_SCORES + c % (COLUMNS / CN) * CN / 4u, (*sums)[c], STEP_SCORES);
    }
  }
}
fn take(sums: ptr<function, Results>, start: u32, subgroup: u32) {
  for (var c = 0u; c < PART / CN; c++) { //#unroll
    if (c - c % (COLUMNS / CN) == start) {
      (*sums)[c] = subgroupMatrixLoad<Sums, row_major>(&scores, subgroup * CM * STEP_SCORES + c % (COLUMNS / CN) * CN / 4u, STEP_SCORES);
    }
  }
}
