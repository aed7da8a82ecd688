// rope.wgsl in place: of each row of x [rows, width] the first heads are rotated, the rest stays. Row r has the position at r, or without PER_ROW at
// r % tokens. One invocation rotates granule i of HEADS heads of one row. Grid: flat over ceil(rows · chunks · half / WORKGROUP) workgroups, folded.
//#use grid
//#use turns
//#use f32 as x
const WORKGROUP = 64u; // invocations
const HEADS = 4u; // heads an invocation
const PER_ROW = false; // a position of its own for each row, else for each token
struct Params {
  size: vec4u, // rows, first row of the window, tokens, heads that are rotated
  width: u32, // granules of a row
  half: u32, // granules of half a head
  sign: f32, // −1 rotates back
}
@group(0) @binding(0) var<storage, read> positions: array<u32>; // i32 or u32 below 2^31
@group(0) @binding(1) var<storage, read> frequencies: array<vec2u>; // as in rope.wgsl
@group(0) @binding(2) var<storage, read_write> x: array<Pack_x>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn rope_heads(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let half = params.half;
  let heads = params.size.w;
  let chunks = (heads + HEADS - 1u) / HEADS;
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let i = index % half;
  let chunk = (index / half) % chunks;
  let row = index / (half * chunks);
  if (row >= params.size.x) { return; }
  let place = params.size.y + row;
  let position = positions[select(place % params.size.z, place, PER_ROW)];
  var turns = vec4u();
  for (var k = 0u; k < 4u; k++) { turns[k] = turn(position, frequencies[i * 4u + k]); }
  let angle = sin_cos(turns);
  let s = angle.sin * params.sign;
  let c = angle.cos;
  for (var head = chunk * HEADS; head < min(heads, (chunk + 1u) * HEADS); head++) {
    let at = row * params.width + head * 2u * half + i;
    let u = unpack_x(x[at]);
    let v = unpack_x(x[at + half]);
    x[at] = pack_x(u * c - v * s);
    x[at + half] = pack_x(v * c + u * s);
  }
}
