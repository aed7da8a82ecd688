// stats[row, k] = (mean, sum of squared differences from it) of chunk k of row [elements] of x: the rows are the groups of group norm, a chunk
// CHUNK granules. Sums run over differences from the chunk's first element, so that a large mean costs no digits. One invocation a chunk.
// Grid: flat over ceil(rows · chunks / WORKGROUP) workgroups, folded.
//#use grid
//#use opaque
//#use f32 as x
//#use finite
const WORKGROUP = 64u; // invocations
const CHUNK = 64u; // granules
struct Params {
  rows: u32, // rows of x in the window
  first: u32, // the window's first; stats is there whole
  granules: u32, // granules of a row
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> stats: array<vec2f>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn group_norm_stats(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let chunks = (params.granules + CHUNK - 1u) / CHUNK;
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.rows * chunks) { return; }
  let first = index % chunks * CHUNK;
  let count = min(CHUNK, params.granules - first);
  let base = index / chunks * params.granules + first;
  let shift = unpack_x(x[base]).x;
  var sum = vec4f();
  var squares = vec4f();
  for (var i = 0u; i < count; i++) {
    let d = opaque4(unpack_x(x[base + i]) - shift);
    sum += d;
    squares = fma(d, d, squares);
  }
  let n = f32(count * W_x);
  let s = hsum_x(sum);
  stats[params.first * chunks + index] = vec2f(shift + s / n, max1(hsum_x(squares) - s * s / n, 0.0));
}
