// A weight packed for the convolution and for the gradient of its input in one launch: w as by conv2d_pack, flipped as by conv2d_pack with FLIP.
// An invocation packs all taps of four channels and one a. Grid: flat over ceil(8 · (rows + flipped_rows) / WORKGROUP), folded.
//#use grid
//#use f32 as x
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32, // (tile, a) of w
  flipped_rows: u32, // and of flipped
  outer: u32, // o of the weight [outer, inner, taps]
  inner: u32, // c
  taps: u32,
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> flipped: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

fn element(i: u32) -> f32 { return pick_x(x[i / PER_x], i); }

@compute @workgroup_size(WORKGROUP)
fn conv2d_pack_both(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index / 8u >= params.rows + params.flipped_rows) { return; }
  let flip = index / 8u >= params.rows;
  let row = index / 8u - select(0u, params.rows, flip);
  let summed = select(params.inner, params.outer, flip);
  let tiled = select(params.outer, params.inner, flip);
  let a = row % summed;
  let first = row / summed * 32u + index % 8u * 4u;
  let channels = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(tiled - 1u));
  let base = select(channels * params.inner + a, a * params.inner + channels, vec4<bool>(flip)) * params.taps;
  let exists = vec4u(first) + vec4u(0u, 1u, 2u, 3u) < vec4u(tiled);
  for (var tap = 0u; tap < params.taps; tap++) {
    let i = base + select(tap, params.taps - 1u - tap, flip);
    let v = vec4f(element(i.x), element(i.y), element(i.z), element(i.w));
    let at = (row * params.taps + tap) * 8u + index % 8u;
    if (flip) {
      flipped[at] = select(vec4f(), v, exists);
    } else {
      w[at] = select(vec4f(), v, exists);
    }
  }
}
