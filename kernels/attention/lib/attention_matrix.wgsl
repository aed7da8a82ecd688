// What the attention kernels on subgroup matrices share: a workgroup takes ROWS rows (queries, or keys), of which each subgroup owns CM, and walks
// the columns in tiles of COLUMNS. Needs the libraries attention_keys and attention_range, and components in slot c.
const CM = 8u; // rows, columns, terms of a subgroup matrix: as the device lists them
const CN = 8u;
const CK = 8u;
const LANES = 64u; // invocations of a subgroup, a multiple of CM
const WORKGROUP = 128u; // a multiple of LANES
const DEPTH = 16u; // elements of a head: a multiple of 16, CN and CK
const PART = 16u; // elements of a head that a workgroup computes of a result: DEPTH, or a half of it
const OPERANDS = 2u; // operands whose rows are multiplied with columns: of the scores, and of their gradients
const WEIGHTS = 2u; // weights of columns that are summed up
const COLUMNS = 32u; // a multiple of CM, CN, CK and PER · SHARE
const HOLD = true; // the rows lie in registers, not in workgroup memory
const ROWS = WORKGROUP / LANES * CM;
const SHARE = LANES / CM; // invocations that share a row of scores
const QUADS = COLUMNS / 4u / SHARE; // granules of its scores that one of them has
const PAIR = PER_c / 4u; // granules of components that make a unit; an invocation has as many next to each other
// Units from one line to the next: of a head, of scores, of weights. One more than the line has, for the banks.
const STEP = DEPTH / PER_c + 1u;
const STEP_SCORES = COLUMNS / 4u + 1u;
const STEP_WEIGHTS = COLUMNS / PER_c + 1u;
alias Left = subgroup_matrix_left<Component_c, CK, CM>;
alias Right = subgroup_matrix_right<Component_c, CN, CK>;
alias Sums = subgroup_matrix_result<f32, CN, CM>;
alias Held = array<Left, DEPTH / CK>;
alias Results = array<Sums, PART / CN>;

// The columns of two operands in `block`, then the rows if they are not held. Rows come through the columns' place to where they are held, by pieces.
const SECOND = COLUMNS * STEP;
const AT_ROWS = 2u * SECOND;
const OWN = max(ROWS, COLUMNS) * STEP; // rows of an operand
const PIECES = max(ROWS / COLUMNS, 1u); // of COLUMNS rows each
const SECOND_SCORES = ROWS * STEP_SCORES;
const SECOND_WEIGHTS = ROWS * STEP_WEIGHTS;
var<workgroup> block: array<Unit_c, AT_ROWS + select(OPERANDS * OWN, 0u, HOLD)>;
var<workgroup> scores: array<Unit_c, OPERANDS * SECOND_SCORES>;
var<workgroup> weights: array<Unit_c, WEIGHTS * SECOND_WEIGHTS>;

// COLUMNS rows of a head from `first`, of which each invocation loads some units, all at once: one after the other, each would wait for the one before.
// Rows beyond the last are 0. `place` stores them in `block` from `to`.
const LINE = DEPTH / PER_c; // units
const EACH = (COLUMNS * LINE + WORKGROUP - 1u) / WORKGROUP;
alias Fetched = array<Unit_c, EACH>;
fn fetch_q(head: u32, first: u32, lane: u32) -> Fetched {
  var units: Fetched;
  for (var e = 0u; e < EACH; e++) { //#unroll
    let row = first + (e * WORKGROUP + lane) / LINE;
    let at = head + min(row, params.queries - 1u) * params.q.w + (e * WORKGROUP + lane) % LINE * PAIR;
    units[e] = select(Unit_c(), query_c(q[at], q[at + PAIR - 1u]), row < params.queries);
  }
  return units;
}
fn fetch_k(head: u32, first: u32, lane: u32) -> Fetched {
  var units: Fetched;
  for (var e = 0u; e < EACH; e++) { //#unroll
    let row = first + (e * WORKGROUP + lane) / LINE;
    let at = head + min(row, params.keys - 1u) * params.k.w + (e * WORKGROUP + lane) % LINE * PAIR;
    units[e] = select(Unit_c(), key_c(k[at], k[at + PAIR - 1u]), row < params.keys);
  }
  return units;
}
fn fetch_v(head: u32, first: u32, lane: u32) -> Fetched {
  var units: Fetched;
  for (var e = 0u; e < EACH; e++) { //#unroll
    let row = first + (e * WORKGROUP + lane) / LINE;
    let at = head + min(row, params.keys - 1u) * params.v.w + (e * WORKGROUP + lane) % LINE * PAIR;
    units[e] = select(Unit_c(), key_c(v[at], v[at + PAIR - 1u]), row < params.keys);
  }
  return units;
}
fn place(units: Fetched, to: u32, lane: u32) {
  for (var e = 0u; e < EACH; e++) { //#unroll
    let i = e * WORKGROUP + lane;
    if (i < COLUMNS * LINE) { block[to + i / LINE * STEP + i % LINE] = units[e]; }
  }
}
// Matrix c of a subgroup's rows in `block` from `own`.
fn rows_at(own: u32, c: u32, subgroup: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&block, own + subgroup * CM * STEP + c * CK / PER_c, STEP);
}
// Matrix c of rows j of the columns in `block` from `start`.
fn columns_at(start: u32, j: u32, c: u32) -> Right {
  return subgroupMatrixLoad<Right, col_major>(&block, start + j * CN * STEP + c * CK / PER_c, STEP);
}
// Takes the subgroup's rows, if they are of this piece of the workgroup's, which lies in `block` from `at`.
fn hold(held: ptr<function, Held>, piece: u32, at: u32, subgroup: u32) {
  if (subgroup * CM / COLUMNS == piece) {
    for (var c = 0u; c < DEPTH / CK; c++) { //#unroll
      (*held)[c] = rows_at(at, c, subgroup - piece * (COLUMNS / CM));
    }
  }
}
// Products of the subgroup's rows, held or in `block` from `own`, with the columns in `block` from `start`, into `scores` from `to`.
fn score(held: ptr<function, Held>, own: u32, start: u32, to: u32, subgroup: u32) {
  var s: array<Sums, COLUMNS / CN>;
  if (HOLD) {
    for (var c = 0u; c < DEPTH / CK; c++) { //#unroll
      for (var j = 0u; j < COLUMNS / CN; j++) { //#unroll
        s[j] = subgroupMatrixMultiplyAccumulate((*held)[c], columns_at(start, j, c), s[j]);
      }
    }
  } else {
    for (var c = 0u; c < DEPTH / CK; c++) {
      let rows = rows_at(own, c, subgroup);
      for (var j = 0u; j < COLUMNS / CN; j++) { //#unroll
        s[j] = subgroupMatrixMultiplyAccumulate(rows, columns_at(start, j, c), s[j]);
      }
    }
  }
  for (var j = 0u; j < COLUMNS / CN; j++) { //#unroll
    subgroupMatrixStore<row_major>(&scores, to + subgroup * CM * STEP_SCORES + j * CN / 4u, s[j], STEP_SCORES);
  }
}
// The e-th granule of a row of scores that the invocation with share `part` has.
fn quad_of(e: u32, part: u32) -> u32 { return (e / PAIR * SHARE + part) * PAIR + e % PAIR; }
// Stores the weights of these granules, of the row that begins at `first` in `weights`.
fn put_weights(first: u32, part: u32, w: array<vec4f, QUADS>) {
  for (var e = 0u; e < QUADS / PAIR; e++) { //#unroll
    weights[first + e * SHARE + part] = unit_c(w[PAIR * e], w[PAIR * e + PAIR - 1u]);
  }
}
// sums += weights from `first` · the PART elements of COLUMNS rows that are in `block` from `start`.
fn weigh(sums: ptr<function, Results>, first: u32, start: u32, subgroup: u32) {
  for (var t = 0u; t < COLUMNS / CK; t++) {
    let left = subgroupMatrixLoad<Left, row_major>(&weights, first + subgroup * CM * STEP_WEIGHTS + t * CK / PER_c, STEP_WEIGHTS);
    for (var c = 0u; c < PART / CN; c++) { //#unroll
      let values = subgroupMatrixLoad<Right, row_major>(&block, start + t * CK * STEP + c * CN / PER_c, STEP);
      (*sums)[c] = subgroupMatrixMultiplyAccumulate(left, values, (*sums)[c]);
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
