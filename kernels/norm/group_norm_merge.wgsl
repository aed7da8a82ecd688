// merged[row, k] = (mean, sum of squared differences) of up to CHUNK neighbouring parts of a row (Chan, Golub, LeVeque 1983). Every part covers
// `covered` elements but the last, which ends with the row. One invocation a result. Grid: flat over ceil(rows · results / WORKGROUP), folded.
//#use grid
//#use opaque
const WORKGROUP = 64u; // invocations
const CHUNK = 64u; // parts
struct Params {
  rows: u32,
  parts: u32, // parts of a row
  covered: u32, // elements
  elements: u32, // elements of a row
}
@group(0) @binding(0) var<storage, read> stats: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> merged: array<vec2f>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn group_norm_merge(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let results = (params.parts + CHUNK - 1u) / CHUNK;
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.rows * results) { return; }
  let first = index % results * CHUNK;
  let last = min(params.parts, first + CHUNK);
  let base = index / results * params.parts;
  let shift = stats[base + first].x;
  let total = f32(min(params.elements, last * params.covered) - first * params.covered);
  var sum = 0.0;
  for (var i = first; i < last; i++) {
    sum += opaque(stats[base + i].x - shift) * (f32(min(params.covered, params.elements - i * params.covered)) / total);
  }
  let mean = shift + sum;
  var squares = 0.0;
  for (var i = first; i < last; i++) {
    let part = stats[base + i];
    let d = part.x - mean;
    squares += part.y + d * d * f32(min(params.covered, params.elements - i * params.covered));
  }
  merged[index] = vec2f(mean, squares);
}
