// An operand of a product in the order in which matmul_register with PANELS reads it. A panel is WIDTH rows of A or columns of B ("lines"); for each
// four terms it holds one piece of WIDTH granules: of A those of its lines, with four terms each; of B, for each term, WIDTH / 4 granules of four
// lines. `inside`: the terms of a line lie next to each other in x; else the lines of a term. Lines and terms beyond the last are zeros. Parameters
// choose the operand and how it lies: one pipeline for all.
// One invocation moves four lines × four terms. Grid: (granules of a row of x / WORKGROUP, rows of x / 4 folded into y and z), both with what pads
// panels and pieces.
//#use f32 as x
const WORKGROUP = 64u; // invocations
const WIDTH = 32u; // lines of a panel, a multiple of 4
struct Params {
  size: vec4u, // granules of a row of x, rows of x; fours of lines and of terms with padding
  x: vec4u, // offset, step of a row (elements, multiples of 4); 1 for `inside`; 1 for A, 0 for B
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> y: array<Pack_x>;
@group(0) @binding(2) var<uniform> params: Params;

fn granule(row: u32, at: u32) -> Pack_x {
  var zeros: Pack_x;
  if (at >= params.size.x || row >= params.size.y) { return zeros; }
  return x[(params.x.x + row * params.x.y) / 4u + at];
}

@compute @workgroup_size(WORKGROUP)
fn matmul_panels(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = group.x * WORKGROUP + lane;
  let four_rows = group.z * groups.y + group.y;
  let inside = params.x.z == 1u;
  let of_a = params.x.w == 1u;
  let lines = select(at, four_rows, inside);
  let terms = select(four_rows, at, inside);
  if (lines >= params.size.z || terms >= params.size.w) { return; }
  let row = four_rows * 4u;
  var block = array(granule(row, at), granule(row + 1u, at), granule(row + 2u, at), granule(row + 3u, at));
  if (inside != of_a) {
    let turned = transpose(mat4x4f(vec4f(unpack_x(block[0])), vec4f(unpack_x(block[1])), vec4f(unpack_x(block[2])), vec4f(unpack_x(block[3]))));
    block = array(pack_x(V4_x(turned[0])), pack_x(V4_x(turned[1])), pack_x(V4_x(turned[2])), pack_x(V4_x(turned[3])));
  }
  let four = lines % (WIDTH / 4u);
  let piece = (lines / (WIDTH / 4u) * params.size.w + terms) * WIDTH;
  let first = piece + select(four, 4u * four, of_a);
  let step = select(WIDTH / 4u, 1u, of_a);
  y[first] = block[0];
  y[first + step] = block[1];
  y[first + 2u * step] = block[2];
  y[first + 3u * step] = block[3];
}
