// Rotary positions, half-split: with i < D/2 and the angle of (position, i), y[i] = x[i] · cos − x[i + D/2] · sin and
// y[i + D/2] = x[i + D/2] · cos + x[i] · sin. Strides are in granules; one invocation rotates granule i of HEADS heads of one token, so
// that the angle is computed once for them. Grid: flat over ceil(batches · tokens · chunks · half / WORKGROUP) workgroups, folded.
//#use grid
//#use turns
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
const HEADS = 4u; // heads an invocation
struct Params {
  size: vec4u, // batches, tokens, heads, granules of half a head
  src: vec4u, // strides of batch, token and head in x, and the offset of x
  dst: vec4u, // likewise in y
  positions: vec4u, // first position, stride of the batch
  sign: f32, // −1 rotates back
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> positions: array<u32>; // i32 or u32 below 2^31
@group(0) @binding(2) var<storage, read> frequencies: array<vec2u>; // per i: turns a position, as 32.32 bits behind the point
@group(0) @binding(3) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn rope(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let half = params.size.w;
  let chunks = (params.size.z + HEADS - 1u) / HEADS;
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let i = index % half;
  let chunk = (index / half) % chunks;
  let place = index / (half * chunks);
  let token = place % params.size.y;
  let batch = place / params.size.y;
  if (batch >= params.size.x) { return; }
  let position = positions[params.positions.x + batch * params.positions.y + token];
  var turns = vec4u();
  for (var k = 0u; k < W_x; k++) { turns[k] = turn(position, frequencies[i * W_x + k]); }
  let angle = sin_cos(turns);
  let s = angle.sin * params.sign;
  let c = angle.cos;
  let end = min(params.size.z, (chunk + 1u) * HEADS);
  for (var head = chunk * HEADS; head < end; head++) {
    let src = dot(params.src, vec4u(batch, token, head, 1u)) + i;
    let dst = dot(params.dst, vec4u(batch, token, head, 1u)) + i;
    let u = unpack_x(x[src]);
    let v = unpack_x(x[src + half]);
    y[dst] = pack_y(u * c - v * s);
    y[dst + half] = pack_y(v * c + u * s);
  }
}
