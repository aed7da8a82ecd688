// partial[r, k] = (m, Σ e^(x − m)) with m the maximum (a NaN or +infinity makes the sum NaN; m may drop them), over the granules k, k + chunks, … of row r of x [rows, columns]: rows are parallel
// within themselves, neighbours read neighbours, no workgroup memory. One invocation a (row, chunk), chunks ≤ granules.
// Grid: flat over ceil(rows · chunks / WORKGROUP) workgroups, folded.
//#use grid
//#use f32 as x
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32,
  granules: u32, // a row
  chunks: u32,
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> partial: array<vec2f>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn cross_entropy_partial(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let row = index / params.chunks;
  if (row >= params.rows) { return; }
  let step = params.chunks;
  let end = (row + 1u) * params.granules;
  var at = row * params.granules + index % params.chunks;
  var top = -3.4e38;
  var sum = 0.0;
  // Four granules at a time: one rescaling of the sum for sixteen terms.
  while (at + 3u * step < end) {
    let a = unpack_x(x[at]);
    let b = unpack_x(x[at + step]);
    let c = unpack_x(x[at + 2u * step]);
    let d = unpack_x(x[at + 3u * step]);
    let next = max(top, hmax_x(max(max(a, b), max(c, d))));
    let scaled = sum * exp(max(top - next, -104.0));
    sum = scaled + hsum_x((power_below4(a, next) + power_below4(b, next)) + (power_below4(c, next) + power_below4(d, next)));
    top = next;
    at += 4u * step;
  }
  while (at < end) {
    let a = unpack_x(x[at]);
    let next = max(top, hmax_x(a));
    sum = sum * exp(max(top - next, -104.0)) + hsum_x(power_below4(a, next));
    top = next;
    at += step;
  }
  partial[index] = vec2f(top, sum);
}
