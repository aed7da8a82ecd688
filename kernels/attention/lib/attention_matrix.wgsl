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
const COLUMNS = 32u; // a multiple of CM, CN and CK
const ROWS = WORKGROUP / LANES * CM;
const SHARE = LANES / CM; // invocations that share a row of scores
const QUADS = COLUMNS / 4u / SHARE; // granules of its scores that one of them has
// Units from one line to the next: of a head; of scores, and of the probabilities that replace them.
const STEP = DEPTH / 4u + PAD_c;
const STEP_SCORES = (COLUMNS / 4u + 1u) * FOUR_c;
alias Left = subgroup_matrix_left<Component_c, CK, CM>;
alias Right = subgroup_matrix_right<Component_c, CN, CK>;
alias Sums = subgroup_matrix_result<f32, CN, CM>;
alias Results = array<Sums, PART / CN>;

// Units of the rows of an operand, and of its columns in a tile; the columns come after the rows.
const OWN = max(ROWS, COLUMNS) * STEP;
const BLOCK = COLUMNS * STEP;
const AT_BLOCK = BLOCKS * OWN;
var<workgroup> block: array<Unit_c, BLOCKS * OWN + BLOCKS * BLOCK>;
var<workgroup> scores: array<Unit_c, ROWS * STEP_SCORES>;
// COLUMNS rows of a head from `first` into `block` from `to`; those beyond the last are 0.
fn stage_q(to: u32, head: u32, first: u32, lane: u32) {
  for (var e = 0u; e < COLUMNS * DEPTH / 4u / WORKGROUP; e++) {
    let i = e * WORKGROUP + lane;
    let row = first + i / (DEPTH / 4u);
    let x = query_c(q[head + min(row, params.queries - 1u) * params.q.w + i % (DEPTH / 4u)]);
    block[to + i / (DEPTH / 4u) * STEP + i % (DEPTH / 4u)] = select(Unit_c(), x, row < params.queries);
  }
}
fn stage_k(to: u32, head: u32, first: u32, lane: u32) {
  for (var e = 0u; e < COLUMNS * DEPTH / 4u / WORKGROUP; e++) {
    let i = e * WORKGROUP + lane;
    let row = first + i / (DEPTH / 4u);
    let x = key_c(k[head + min(row, params.keys - 1u) * params.k.w + i % (DEPTH / 4u)]);
    block[to + i / (DEPTH / 4u) * STEP + i % (DEPTH / 4u)] = select(Unit_c(), x, row < params.keys);
  }
}
fn stage_v(to: u32, head: u32, first: u32, lane: u32) {
  for (var e = 0u; e < COLUMNS * DEPTH / 4u / WORKGROUP; e++) {
    let i = e * WORKGROUP + lane;
    let row = first + i / (DEPTH / 4u);
    let x = key_c(v[head + min(row, params.keys - 1u) * params.v.w + i % (DEPTH / 4u)]);
    block[to + i / (DEPTH / 4u) * STEP + i % (DEPTH / 4u)] = select(Unit_c(), x, row < params.keys);
  }
}
// Four sums of a row of `scores`, and back.
fn four_at(at: u32) -> vec4f { return sums_c(scores[at], scores[at + FOUR_c - 1u]); }
fn set_four(at: u32, v: vec4f) {
  scores[at] = low_c(v);
  scores[at + FOUR_c - 1u] = high_c(v);
}
// Products of the subgroup's rows, of the operand at `own`, with the columns at `start` in `block`, into `scores`.
fn score(own: u32, start: u32, subgroup: u32) {
  for (var j = 0u; j < COLUMNS / CN; j++) {
    var s = Sums();
    for (var c = 0u; c < DEPTH / CK; c++) {
      let rows = subgroupMatrixLoad<Left, row_major>(&block, own + subgroup * CM * STEP + c * CK / 4u, STEP);
      let columns = subgroupMatrixLoad<Right, col_major>(&block, start + j * CN * STEP + c * CK / 4u, STEP);
      s = subgroupMatrixMultiplyAccumulate(rows, columns, s);
    }
    subgroupMatrixStore<row_major>(&scores, subgroup * CM * STEP_SCORES + j * CN / 4u * FOUR_c, s, STEP_SCORES);
  }
}
// sums += weights in `scores` · the PART elements of COLUMNS rows that are in `block` from `from`.
fn weigh(sums: ptr<function, Results>, start: u32, subgroup: u32) {
  for (var t = 0u; t < COLUMNS / CK; t++) {
    let weights = subgroupMatrixLoad<Left, row_major>(&scores, subgroup * CM * STEP_SCORES + t * CK / 4u, STEP_SCORES);
    for (var c = 0u; c < PART / CN; c++) {
      let values = subgroupMatrixLoad<Right, row_major>(&block, start + t * CK * STEP + c * CN / 4u, STEP);
      (*sums)[c] = subgroupMatrixMultiplyAccumulate(weights, values, (*sums)[c]);
    }
  }
}
// COLUMNS elements of the subgroup's rows of sums, from matrix `start` on, into `scores`; and back. Compilers unroll the loops over all matrices: with a
// computed index the sums would lie in memory from the start.
fn show(sums: ptr<function, Results>, start: u32, subgroup: u32) {
  for (var c = 0u; c < PART / CN; c++) {
    if (c - c % (COLUMNS / CN) == start) {
      let at = subgroup * CM * STEP_SCORES + c % (COLUMNS / CN) * CN / 4u * FOUR_c;
      subgroupMatrixStore<row_major>(&scores, at, (*sums)[c], STEP_SCORES);
    }
  }
}
fn take(sums: ptr<function, Results>, start: u32, subgroup: u32) {
  for (var c = 0u; c < PART / CN; c++) {
    if (c - c % (COLUMNS / CN) == start) {
      let at = subgroup * CM * STEP_SCORES + c % (COLUMNS / CN) * CN / 4u * FOUR_c;
      (*sums)[c] = subgroupMatrixLoad<Sums, row_major>(&scores, at, STEP_SCORES);
    }
  }
}
