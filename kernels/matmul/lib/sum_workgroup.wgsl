// Sums over the invocations of a workgroup (LANES = WORKGROUP = 64) through workgroup memory, in two steps of eight: few barriers, since
// each costs much on software Vulkan, at run time and in compiling. Invocation i gets the sum of row i.
var<workgroup> partial_T: array<vec4f, ROWS * LANES>;
fn sum_T(rows: array<vec4f, 8>, lane: u32) -> vec4f {
  var mine = rows;
  for (var r = 0u; r < ROWS; r++) { partial_T[r * LANES + lane] = mine[r]; }
  workgroupBarrier();
  var eight = vec4f();
  if (lane < ROWS * 8u) {
    for (var i = 0u; i < 8u; i++) { eight += partial_T[lane * 8u + i]; }
  }
  workgroupBarrier();
  if (lane < ROWS * 8u) { partial_T[lane] = eight; }
  workgroupBarrier();
  var total = vec4f();
  if (lane < ROWS) {
    for (var i = 0u; i < 8u; i++) { total += partial_T[lane * 8u + i]; }
  }
  return total;
}
