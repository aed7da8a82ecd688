// Running sums of rows x [rows, n], in chunks of CHUNK elements: y[row, i] = offsets[row, chunk − 1] + Σ x[row, j] over the j of i's chunk up to i,
// where offsets are the running sums of the chunks' totals; without OFFSETS rows have one chunk. TOTALS writes each chunk's total alone,
// y [rows, chunks]. REVERSE sums from the end of the row. One invocation a chunk.
// Grid: flat over ceil(rows · chunks / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
const CHUNK = 64u; // elements
const TOTALS = false;
const OFFSETS = false;
const REVERSE = false;
struct Params {
  rows: u32, // in the window
  n: u32,
  chunks: u32, // of a row
  first: u32, // chunk at which the window begins in offsets, or in the totals
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read> offsets: array<Word_y>;
@group(0) @binding(2) var<storage, read_write> y: array<Word_y>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn cumsum(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = flat_group(group, groups) * WORKGROUP + lane;
  let row = at / params.chunks;
  if (row >= params.rows) { return; }
  let chunk = at - row * params.chunks;
  let end = min((chunk + 1u) * CHUNK, params.n);
  var sum = S_y();
  for (var k = chunk * CHUNK; k < end; k++) {
    let i = row * params.n + select(k, params.n - 1u - k, REVERSE);
    sum += S_y(pick_x(x[i / PER_x], i));
    if (!TOTALS) { y[i] = sum; }
  }
  if (TOTALS) {
    y[params.first + at] = sum;
    return;
  }
  if (OFFSETS && chunk > 0u) {
    let before = offsets[params.first + at - 1u];
    for (var k = chunk * CHUNK; k < end; k++) {
      let i = row * params.n + select(k, params.n - 1u - k, REVERSE);
      y[i] += before;
    }
  }
}
