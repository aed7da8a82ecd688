// One stage of a reduction over the middle of x [outer, n, inner]: y [outer, chunks, inner], chunk k covering n from k · chunk on.
// Stages repeat until one chunk is left: the order is fixed, sums are short, no workgroup memory. With ROWS, inner is 1 and the granules
// lie along n; else they lie along inner. Lengths count granules of x. One invocation a granule of y (an element with ROWS).
// Grid: flat over ceil(outer · chunks · inner / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
//#use f32 as y
//#use reduce_sum as r
const WORKGROUP = 64u; // invocations
const ROWS = false;
struct Params {
  outer: u32,
  n: u32, // along the reduced dimension; granules with ROWS
  inner: u32, // granules
  chunk: u32,
  chunks: u32,
  first: u32, // granule of y where the window begins
  scale: f32, // multiplies the result (mean)
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn reduce(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.outer * params.chunks * params.inner) { return; }
  let column = index % params.inner;
  let rest = index / params.inner;
  let first = (rest % params.chunks) * params.chunk;
  let last = min(params.n, first + params.chunk);
  let base = (rest / params.chunks) * params.n;
  var sum = unpack_x(x[(base + first) * params.inner + column]);
  for (var i = first + 1u; i < last; i++) {
    sum = combine_r(sum, unpack_x(x[(base + i) * params.inner + column]));
  }
  if (ROWS) { sum = vec4f(fold_r(sum, W_x), 0.0, 0.0, 0.0); }
  y[params.first + index] = pack_y(sum * params.scale);
}
