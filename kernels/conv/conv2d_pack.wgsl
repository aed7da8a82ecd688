// w[tile, a, tap, 0 … 31] = weight[o, c, tap] in f32 for 32 channels that a launch of the convolution computes, zero beyond the last: the form in
// which the convolution kernels read weights. Forward: tiles go over o, a over c. With FLIP (gradient of the input): tiles go over c, a over o,
// taps in reverse order. An invocation packs all taps of four channels and one a. Grid: flat over ceil(8 · tiles · a / WORKGROUP), folded.
//#use grid
//#use f32 as x
const WORKGROUP = 64u; // invocations
const FLIP = false;
struct Params {
  rows: u32, // (tile, a) in the window of w
  start: u32, // the window's first
  outer: u32, // o of the weight [outer, inner, taps]
  inner: u32, // c
  taps: u32,
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read_write> w: array<vec4f>;
@group(0) @binding(2) var<uniform> params: Params;

fn element(i: u32) -> f32 { return pick_x(x[i / PER_x], i); }

@compute @workgroup_size(WORKGROUP)
fn conv2d_pack(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let row = index / 8u;
  if (row >= params.rows) { return; }
  let summed = select(params.inner, params.outer, FLIP);
  let tiled = select(params.outer, params.inner, FLIP);
  let a = (params.start + row) % summed;
  let first = (params.start + row) / summed * 32u + index % 8u * 4u;
  let channels = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(tiled - 1u));
  let base = select(channels * params.inner + a, a * params.inner + channels, FLIP) * params.taps;
  let exists = vec4u(first) + vec4u(0u, 1u, 2u, 3u) < vec4u(tiled);
  for (var tap = 0u; tap < params.taps; tap++) {
    let i = base + select(tap, params.taps - 1u - tap, FLIP);
    let v = vec4f(element(i.x), element(i.y), element(i.z), element(i.w));
    w[(row * params.taps + tap) * 8u + index % 8u] = select(vec4f(), v, exists);
  }
}
