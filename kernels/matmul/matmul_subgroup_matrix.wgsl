// y[z] = epilogue(A[z] [M, K] · B[z] [K, N]) on subgroup matrices (tensor cores), each CM × CN × CK. A workgroup computes a tile of BM × BN, BK
// terms at a time through workgroup memory; its DOWN × ACROSS subgroups own a rectangle of it each. The tiles in workgroup memory lie as the
// operands do (TRANS_A: A lies [K, M]; TRANS_B: B lies [N, K]): the loads of matrices are row_major or col_major, nothing is transposed. Where loads
// across the terms are slow, TURN_A and TURN_B transpose blocks of 4 × 4 on the way there.
// Sums are f32 and run over the terms in their order, CK at a time, whatever the number of rows. K is a multiple of 4 unless A lies [K, M] and
// B [K, N]. Grid: (ceil(M / BM), ceil(N / BN), batches).
enable subgroups;
enable chromium_experimental_subgroup_matrix;
//#use matmul_bindings
//#use matmul_io
//#use f16 as a
//#use f16 as b
//#use matrix_f16 as c
const CM = 16u; // rows, columns, terms of a subgroup matrix: as the device lists them
const CN = 16u;
const CK = 16u;
const LANES = 32u; // invocations of a subgroup
const WORKGROUP = 128u; // LANES · DOWN · ACROSS
const DOWN = 2u; // subgroups along M
const ACROSS = 2u; // subgroups along N
const BM = 64u;
const BN = 64u;
const BK = 32u;
const TRANS_A = false;
const TRANS_B = false;
const TURN_A = false; // with TRANS_A: terms lie inside in workgroup memory
const TURN_B = false; // without TRANS_B: the same
// Lines of the tiles in workgroup memory and elements of each: BM × BK, or BK × BM with TRANS_A; BK × BN, or BN × BK with TRANS_B; turned as without.
const LINES_A = 64u;
const WIDTH_A = 32u;
const LINES_B = 32u;
const WIDTH_B = 64u;
alias Left = subgroup_matrix_left<Component_c, CK, CM>;
alias Right = subgroup_matrix_right<Component_c, CN, CK>;
alias Sums = subgroup_matrix_result<f32, CN, CM>;
// Matrices of a subgroup.
const ROWS = BM / DOWN / CM;
const COLUMNS = BN / ACROSS / CN;
// Units from one line to the next: one more than the line has, for the banks of the memory.
const STEP_A = WIDTH_A / PER_c + 1u;
const STEP_B = WIDTH_B / PER_c + 1u;
const STEP_SUMS = BN / 4u + 1u;
// Fours that make a unit, and that an invocation loads.
const PAIR = PER_c / 4u;
const EACH_A = LINES_A * WIDTH_A / 4u / WORKGROUP;
const EACH_B = LINES_B * WIDTH_B / 4u / WORKGROUP;
// The tile of B; the sums of DOWN · CM rows, once both tiles are done with, lie from 0.
const AT_B = LINES_A * STEP_A;
@group(0) @binding(0) var<storage, read> a: array<Pack_a>;
@group(0) @binding(1) var<storage, read> b: array<Pack_b>;
var<workgroup> tile: array<Unit_c, max(AT_B + LINES_B * STEP_B, DOWN * CM * STEP_SUMS)>;

// Of the e-th four that invocation `lane` loads of a tile: line and four in it, as the operand lies. PAIR in turn make a unit. Turned: 0 … 3, 4 … 7 are
// the lines of a block, whose place in the tile is the four's.
fn place_of(e: u32, lane: u32, width: u32, turn: bool) -> vec2u {
  if (!turn) {
    let unit = e / PAIR * WORKGROUP + lane;
    return vec2u(unit / (width / PER_c), unit % (width / PER_c) * PAIR + e % PAIR);
  }
  let at = e / 4u * WORKGROUP + lane;
  return vec2u(at % (width / 4u) * 4u + e % 4u, at / (width / 4u));
}

// Four e of the tile of A from (row, term); zero beyond the last term, rows beyond the last repeat it.
fn load_a(first: u32, row: u32, term: u32, e: u32, lane: u32) -> Four_c {
  let place = place_of(e, lane, WIDTH_A, TURN_A);
  let line = place.x;
  let along = place.y * 4u;
  let down = select(row + line, row + along, TRANS_A);
  let k = select(term + along, term + line, TRANS_A);
  let x = min(down, params.size.x - 1u);
  let t = min(k, params.size.z - 1u);
  let at = first + select(x * (params.a.y / 4u) + t / 4u, t * (params.a.z / 4u) + x / 4u, TRANS_A);
  return select(Four_c(), left_c(a[at]), k < params.size.z);
}

// The same of B from (term, column).
fn load_b(first: u32, term: u32, column: u32, e: u32, lane: u32) -> Four_c {
  let place = place_of(e, lane, WIDTH_B, TURN_B);
  let line = place.x;
  let along = place.y * 4u;
  let across = select(column + along, column + line, TRANS_B);
  let k = select(term + line, term + along, TRANS_B);
  let x = min(across, params.size.y - 1u);
  let t = min(k, params.size.z - 1u);
  let at = first + select(t * (params.b.y / 4u) + x / 4u, x * (params.b.z / 4u) + t / 4u, TRANS_B);
  return select(Four_c(), right_c(b[at]), k < params.size.z);
}

// The matrix of A whose first element is (row, term) of the tile.
fn left_at(row: u32, term: u32) -> Left {
  if (TRANS_A && !TURN_A) { return subgroupMatrixLoad<Left, col_major>(&tile, term * STEP_A + row / PER_c, STEP_A); }
  return subgroupMatrixLoad<Left, row_major>(&tile, row * STEP_A + term / PER_c, STEP_A);
}

// The matrix of B whose first element is (term, column) of the tile.
fn right_at(term: u32, column: u32) -> Right {
  if (TRANS_B || TURN_B) { return subgroupMatrixLoad<Right, col_major>(&tile, AT_B + column * STEP_B + term / PER_c, STEP_B); }
  return subgroupMatrixLoad<Right, row_major>(&tile, AT_B + term * STEP_B + column / PER_c, STEP_B);
}

//#use size_any as z
@compute @workgroup_size(WORKGROUP)
fn matmul_subgroup_matrix(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32) {
  let batch = batch_of(group.z);
  let first_a = (params.a.x + along(batch, params.batches.x, params.batches.y)) / 4u;
  let first_b = (params.b.x + along(batch, params.batches.z, params.batches.w)) / 4u;
  // Of the subgroup's rectangle, in the tile.
  let top = subgroup / ACROSS * (BM / DOWN);
  let left = subgroup % ACROSS * (BN / ACROSS);
  var sums: array<Sums, ROWS * COLUMNS>;
  // The next tiles are loaded while the matrices of these are multiplied.
  var next_a: array<Four_c, EACH_A>;
  var next_b: array<Four_c, EACH_B>;
  for (var e = 0u; e < EACH_A; e++) { //#unroll
    next_a[e] = load_a(first_a, group.x * BM, 0u, e, lane);
  }
  for (var e = 0u; e < EACH_B; e++) { //#unroll
    next_b[e] = load_b(first_b, 0u, group.y * BN, e, lane);
  }
  for (var term = 0u; term < params.size.z; term += BK) {
    if (TURN_A) {
      for (var e = 0u; e < EACH_A / 4u; e++) { //#unroll
        let place = place_of(4u * e, lane, WIDTH_A, true);
        let at = place.y * 4u * STEP_A * PAIR + place.x / 4u;
        let lines = turned_c(next_a[4u * e], next_a[4u * e + 1u], next_a[4u * e + 2u], next_a[4u * e + 3u]);
        for (var r = 0u; r < 4u; r++) { //#unroll
          put_c(at + r * STEP_A * PAIR, lines[r]);
        }
      }
    } else {
      for (var e = 0u; e < EACH_A / PAIR; e++) { //#unroll
        let place = place_of(PAIR * e, lane, WIDTH_A, false);
        tile[place.x * STEP_A + place.y / PAIR] = unit_c(next_a[PAIR * e], next_a[PAIR * e + PAIR - 1u]);
      }
    }
    if (TURN_B) {
      for (var e = 0u; e < EACH_B / 4u; e++) { //#unroll
        let place = place_of(4u * e, lane, WIDTH_B, true);
        let at = (AT_B + place.y * 4u * STEP_B) * PAIR + place.x / 4u;
        let lines = turned_c(next_b[4u * e], next_b[4u * e + 1u], next_b[4u * e + 2u], next_b[4u * e + 3u]);
        for (var r = 0u; r < 4u; r++) { //#unroll
          put_c(at + r * STEP_B * PAIR, lines[r]);
        }
      }
    } else {
      for (var e = 0u; e < EACH_B / PAIR; e++) { //#unroll
        let place = place_of(PAIR * e, lane, WIDTH_B, false);
        tile[AT_B + place.x * STEP_B + place.y / PAIR] = unit_c(next_b[PAIR * e], next_b[PAIR * e + PAIR - 1u]);
      }
    }
    workgroupBarrier();
    for (var e = 0u; e < EACH_A; e++) { //#unroll
      next_a[e] = load_a(first_a, group.x * BM, term + BK, e, lane);
    }
    for (var e = 0u; e < EACH_B; e++) { //#unroll
      next_b[e] = load_b(first_b, term + BK, group.y * BN, e, lane);
    }
    for (var k = 0u; k < BK; k += CK) {
      var rights: array<Right, COLUMNS>;
      for (var j = 0u; j < COLUMNS; j++) { //#unroll
        rights[j] = right_at(k, left + j * CN);
      }
      for (var i = 0u; i < ROWS; i++) { //#unroll
        let x = left_at(top + i * CM, k);
        for (var j = 0u; j < COLUMNS; j++) { //#unroll
          sums[i * COLUMNS + j] = subgroupMatrixMultiplyAccumulate(x, rights[j], sums[i * COLUMNS + j]);
        }
      }
    }
    workgroupBarrier();
  }
  // Elements of subgroup matrices are reached through memory alone: a row of matrices of each subgroup at a time, for the epilogue.
  for (var i = 0u; i < ROWS; i++) {
    // Not sums[i · COLUMNS + j]: with a computed index the sums would lie in memory from the start.
    for (var r = 0u; r < ROWS; r++) { //#unroll
      if (r == i) {
        for (var j = 0u; j < COLUMNS; j++) { //#unroll
          let at = subgroup / ACROSS * CM * STEP_SUMS + (left + j * CN) / 4u;
          subgroupMatrixStore<row_major>(&tile, at, sums[r * COLUMNS + j], STEP_SUMS);
        }
      }
    }
    workgroupBarrier();
    for (var four = lane; four < DOWN * CM * BN / 4u; four += WORKGROUP) {
      let line = four / (BN / 4u);
      let row = group.x * BM + line / CM * (BM / DOWN) + i * CM + line % CM;
      let column = group.y * BN + four % (BN / 4u) * 4u;
      if (row < params.size.x && column < params.size.y) { finish(batch, row, column, sums_c(tile[line * STEP_SUMS + four % (BN / 4u)])); }
    }
    workgroupBarrier();
  }
}
