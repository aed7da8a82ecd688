// The sums of conv2d_tiled.wgsl on subgroup matrices (tensor cores): weight [o, (c, tap)] · pixels [(c, tap), pixel], a workgroup computing OUTPUTS
// channels × 64 pixels of an image in steps of BK along (c, tap). Both tiles lie in workgroup memory with (c, tap) outside.
// Grid: flat over (blocks of 64 pixels fastest, images, blocks of OUTPUTS channels), folded.
enable subgroups;
enable chromium_experimental_subgroup_matrix;
//#use grid
//#use conv2d_forward
//#use conv2d_place
//#use conv2d_matrix_f32 as c
const CM = 8u; // rows, columns, terms of a subgroup matrix: as the device lists them
const CN = 8u;
const CK = 8u;
const LANES = 32u; // invocations of a subgroup
const WORKGROUP = 128u; // LANES · DOWN · ACROSS, a multiple of 16
const DOWN = 2u; // subgroups along the output channels
const ACROSS = 2u; // subgroups along the pixels
const OUTPUTS = 64u; // 64 or 128 output channels: twice as many products for each pixel that is loaded
const BK = 16u; // a multiple of CK and WORKGROUP / 16
alias Left = subgroup_matrix_left<Component_c, CK, CM>;
alias Right = subgroup_matrix_right<Component_c, CN, CK>;
alias Sums = subgroup_matrix_result<f32, CN, CM>;
const ROWS = OUTPUTS / DOWN / CM; // matrices of a subgroup
const COLUMNS = 64u / ACROSS / CN;
const PAIR = PER_c / 4u; // fours that make a unit
const STEP = 64u / PER_c + 1u; // units from one line of the tile of pixels to the next
const STEP_WEIGHTS = OUTPUTS / PER_c + 1u;
const STEP_SUMS = 17u;
const LINES = WORKGROUP / 16u; // lines of pixels that the workgroup loads at once
const EACH = BK / LINES; // fours of pixels that an invocation loads
const EACH_WEIGHTS = BK * OUTPUTS / 4u / WORKGROUP;
// The tile of weights, then that of pixels; in the end the sums of DOWN · CM output channels.
const AT_PIXELS = BK * STEP_WEIGHTS;
var<workgroup> tile: array<Unit_c, max(AT_PIXELS + BK * STEP, DOWN * CM * STEP_SUMS)>;

//#use size_any as z
@compute @workgroup_size(WORKGROUP)
fn conv2d_subgroup_matrix(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32, @builtin(subgroup_id) subgroup: u32) {
  let pixels = params.out_height * params.out_width;
  let blocks = (pixels + 63u) / 64u;
  let task = flat_group(group, groups);
  let first = task % blocks * 64u;
  let image = task / blocks % params.images;
  // In tiles of 32 output channels, as the weight is packed.
  let o_tile = task / (blocks * params.images) * (OUTPUTS / 32u);
  let o_first = (params.o_first / 32u + o_tile) * 32u;
  let taps = params.kernel_height * params.kernel_width;
  let depth = params.channels * taps;
  // This invocation loads four `column` (of pixels) of every LINES-th line of the tile of pixels.
  let column = lane % 16u;
  let line = lane / 16u;
  var r: vec4i;
  var q: vec4i;
  for (var e = 0u; e < 4u; e++) {
    let at = first + column * 4u + e;
    // Pixels beyond the last are placed outside the image.
    r[e] = select(-0x40000000, i32(at / params.out_width * params.stride) - params.top, at < pixels);
    q[e] = i32(at % params.out_width * params.stride) - params.left;
  }
  // Of the subgroup's rectangle, in the tile.
  let top = subgroup / ACROSS * (OUTPUTS / DOWN);
  let left = subgroup % ACROSS * (64u / ACROSS);
  var sums: array<Sums, ROWS * COLUMNS>;
  // Its (c, tap), carried along instead of divided for.
  var c = line / taps;
  var tap = line % taps;
  for (var k0 = 0u; k0 < depth; k0 += BK) {
    for (var e = 0u; e < EACH_WEIGHTS; e++) {
      let four = (e * WORKGROUP + lane) % (OUTPUTS / 4u);
      let row = (e * WORKGROUP + lane) / (OUTPUTS / 4u);
      let exists = k0 + row < depth && o_first + four * 4u < params.o_end;
      let at = params.w_first + (o_tile + four / 8u) * params.w_tile + (k0 + row) * 8u + four % 8u;
      put_c(row * STEP_WEIGHTS * PAIR + four, select(vec4f(), w[select(params.w_first, at, exists)], exists));
    }
    for (var e = 0u; e < EACH; e++) {
      let exists = c < params.channels;
      let down = i32(tap / params.kernel_width);
      let over = i32(tap % params.kernel_width);
      let base = params.x_first + image * params.x_image + min(c, params.channels - 1u) * params.height * params.width;
      var values: vec4f;
      for (var p = 0u; p < 4u; p++) { values[p] = pixel(base, select(-1, place(r[p] + down, q[p] + over), exists)); }
      put_c((AT_PIXELS + (e * LINES + line) * STEP) * PAIR + column, values);
      c += LINES / taps;
      tap += LINES % taps;
      let carry = u32(tap >= taps);
      tap -= carry * taps;
      c += carry;
    }
    workgroupBarrier();
    for (var k = 0u; k < BK; k += CK) {
      var rights: array<Right, COLUMNS>;
      for (var n = 0u; n < COLUMNS; n++) { //#unroll
        rights[n] = subgroupMatrixLoad<Right, row_major>(&tile, AT_PIXELS + k * STEP + (left + n * CN) / PER_c, STEP);
      }
      for (var m = 0u; m < ROWS; m++) { //#unroll
        let x = subgroupMatrixLoad<Left, col_major>(&tile, k * STEP_WEIGHTS + (top + m * CM) / PER_c, STEP_WEIGHTS);
        for (var n = 0u; n < COLUMNS; n++) { //#unroll
          sums[m * COLUMNS + n] = subgroupMatrixMultiplyAccumulate(x, rights[n], sums[m * COLUMNS + n]);
        }
      }
    }
    workgroupBarrier();
  }
  for (var m = 0u; m < ROWS; m++) {
    // Not sums[m · COLUMNS + n]: with a computed index the sums would lie in memory from the start.
    for (var i = 0u; i < ROWS; i++) { //#unroll
      if (i == m) {
        for (var n = 0u; n < COLUMNS; n++) { //#unroll
          let at = subgroup / ACROSS * CM * STEP_SUMS + (left + n * CN) / 4u;
          subgroupMatrixStore<row_major>(&tile, at, sums[i * COLUMNS + n], STEP_SUMS);
        }
      }
    }
    workgroupBarrier();
    for (var four = lane; four < DOWN * CM * 16u; four += WORKGROUP) {
      let row = four / 16u;
      let at = row * STEP_SUMS + four % 16u;
      let o = o_first + row / CM * (OUTPUTS / DOWN) + m * CM + row % CM;
      let start = first + four % 16u * 4u;
      if (start < pixels) { store(image, o, start, pixels - start, sums_c(tile[at])); }
    }
    workgroupBarrier();
  }
}
