// AdamW as in adamw.wgsl for two tensors of whole granules at once, each with its moments in one tensor: m, and v from granule `v0` or `v1` on.
// The first `groups0` workgroups update the first. An invocation updates GRANULES granules of 4.
// Grid: flat over the sum of ceil(granules / (WORKGROUP · GRANULES)) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
const GRANULES = 2u; // granules an invocation, a workgroup apart
struct Params {
  granules0: u32,
  granules1: u32,
  v0: u32,
  v1: u32,
  row0: u32, // rows of the parameters in `steps`
  row1: u32,
  groups0: u32,
  rest1: f32, // 1 − β1
  rest2: f32, // 1 − β2
  epsilon: f32,
  decay: f32, // λ
}
@group(0) @binding(0) var<storage, read_write> p0: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> moments0: array<vec4f>;
@group(0) @binding(2) var<storage, read> g0: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> p1: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> moments1: array<vec4f>;
@group(0) @binding(5) var<storage, read> g1: array<vec4f>;
@group(0) @binding(6) var<storage, read> state: array<vec4f>;
@group(0) @binding(7) var<storage, read> steps: array<f32>; // [parameters, 3]: t, c1, c2
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn adamw_pair(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let s = state[0]; // t, η, c1, c2
  let r = state[1]; // factor, skip
  if (r.y != 0.0) { return; }
  let index = flat_group(group, groups);
  let is_first = index < params.groups0;
  let row = 3u * select(params.row1, params.row0, is_first);
  let c = vec2f(steps[row + 1u], steps[row + 2u]);
  let rate = s.y / c.x;
  let root = inverseSqrt(c.y);
  let kept = s.y * params.decay;
  let granules = select(params.granules1, params.granules0, is_first);
  let first = select(index - params.groups0, index, is_first) * (WORKGROUP * GRANULES) + lane;
  for (var k = 0u; k < GRANULES; k++) {
    let i = first + k * WORKGROUP;
    if (i < granules) {
      var old: vec4f;
      var grad: vec4f;
      var mean: vec4f;
      var square: vec4f;
      if (is_first) {
        old = p0[i];
        grad = g0[i];
        mean = moments0[i];
        square = moments0[params.v0 + i];
      } else {
        old = p1[i];
        grad = g1[i];
        mean = moments1[i];
        square = moments1[params.v1 + i];
      }
      grad *= r.x;
      mean += params.rest1 * (grad - mean);
      square += params.rest2 * (grad * grad - square);
      let next = old - kept * old - rate * mean / (sqrt(square) * root + params.epsilon);
      if (is_first) {
        p0[i] = next;
        moments0[i] = mean;
        moments0[params.v0 + i] = square;
      } else {
        p1[i] = next;
        moments1[i] = mean;
        moments1[params.v1 + i] = square;
      }
    }
  }
}
