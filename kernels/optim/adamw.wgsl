// AdamW with decoupled decay (Loshchilov and Hutter 2019), in place, for one tensor:
// g ← factor · g; m ← m + (1 − β1)(g − m); v ← v + (1 − β2)(g² − v); p ← p − η λ p − η (m / c1) / (√(v / c2) + ε), and with COPY
// copy ← p rounded to its dtype, with EMA ema ← ema + (1 − γ)(p − ema). η, c1, c2 and the factor come from `state` (see adamw_prepare.wgsl), which also says "skip";
// with OWN, c1 and c2 come from row `row` of `steps` (see adamw_count.wgsl).
// An invocation updates GRANULES granules of 4. Grid: flat over ceil(granules / (WORKGROUP · GRANULES)) workgroups, folded.
//#use grid
//#use f32 as p
//#use bf16 as c
const WORKGROUP = 64u; // invocations
const GRANULES = 2u; // granules an invocation, a workgroup apart
const COPY = false;
const EMA = false;
const OWN = false; // a step count of the parameter's own
struct Params {
  elements: u32, // in the window; elements after the last are not changed
  rest1: f32, // 1 − β1
  rest2: f32, // 1 − β2
  epsilon: f32,
  decay: f32, // λ
  fresh: f32, // 1 − γ
  row: u32, // row of the parameter
}
@group(0) @binding(0) var<storage, read_write> p: array<Pack_p>;
@group(0) @binding(1) var<storage, read_write> m: array<Pack_p>;
@group(0) @binding(2) var<storage, read_write> v: array<Pack_p>;
@group(0) @binding(3) var<storage, read> g: array<Pack_p>;
@group(0) @binding(4) var<storage, read_write> copy: array<Pack_c>;
@group(0) @binding(5) var<storage, read_write> ema: array<Pack_p>;
@group(0) @binding(6) var<storage, read> state: array<vec4f>;
@group(0) @binding(7) var<storage, read> steps: array<f32>; // [parameters, 3]: t, c1, c2
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn adamw(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let s = state[0]; // t, η, c1, c2
  let r = state[1]; // factor, skip
  if (r.y != 0.0) { return; }
  var c = s.zw;
  if (OWN) { c = vec2f(steps[3u * params.row + 1u], steps[3u * params.row + 2u]); }
  let rate = s.y / c.x;
  let root = inverseSqrt(c.y);
  let kept = s.y * params.decay;
  let first = flat_group(group, groups) * (WORKGROUP * GRANULES) + lane;
  for (var k = 0u; k < GRANULES; k++) {
    let i = first + k * WORKGROUP;
    if (i * 4u < params.elements) {
      let inside = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.elements);
      let old = p[i];
      let grad = g[i] * r.x;
      let mean = m[i] + params.rest1 * (grad - m[i]);
      let square = v[i] + params.rest2 * (grad * grad - v[i]);
      let next = old - kept * old - rate * mean / (sqrt(square) * root + params.epsilon);
      p[i] = select(old, next, inside);
      m[i] = select(m[i], mean, inside);
      v[i] = select(v[i], square, inside);
      if (EMA) { ema[i] = select(ema[i], ema[i] + params.fresh * (next - ema[i]), inside); }
      if (COPY) { copy[i] = pack_c(select(old, next, inside)); }
    }
  }
}
