// SGD with momentum (Sutskever et al. 2013, in the form of torch.optim.SGD), in place, for one tensor:
// g ← factor · g + λ p; with MOMENTUM m ← μ m + (1 − τ) g, but m ← g at the parameter's first step, and g ← m, with NESTEROV g ← g + μ m;
// p ← p − η g; with COPY copy ← p rounded to its dtype, with EMA ema ← ema + (1 − γ)(p − ema). η, the step count and the factor come from
// `state` (see adamw_prepare.wgsl), which also says "skip"; with OWN the count comes from row `row` of `steps` (see adamw_count.wgsl).
// An invocation updates GRANULES granules of 4. Grid: flat over ceil(granules / (WORKGROUP · GRANULES)) workgroups, folded.
//#use grid
//#use f32 as p
//#use bf16 as c
const WORKGROUP = 64u; // invocations
const GRANULES = 2u; // granules an invocation, a workgroup apart
const MOMENTUM = true;
const NESTEROV = false;
const COPY = false;
const EMA = false;
const OWN = false; // a step count of the parameter's own
struct Params {
  elements: u32, // in the window; elements after the last are not changed
  momentum: f32, // μ
  fresh: f32, // 1 − τ, τ the dampening
  decay: f32, // λ
  average: f32, // 1 − γ
  row: u32, // row of the parameter
}
@group(0) @binding(0) var<storage, read_write> p: array<Pack_p>;
@group(0) @binding(1) var<storage, read_write> m: array<Pack_p>;
@group(0) @binding(2) var<storage, read> g: array<Pack_p>;
@group(0) @binding(3) var<storage, read_write> copy: array<Pack_c>;
@group(0) @binding(4) var<storage, read_write> ema: array<Pack_p>;
@group(0) @binding(5) var<storage, read> state: array<vec4f>;
@group(0) @binding(6) var<storage, read> steps: array<f32>; // [parameters, 3]: t, c1, c2
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn sgd(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let s = state[0]; // t, η
  let r = state[1]; // factor, skip
  if (r.y != 0.0) { return; }
  var count = s.x;
  if (OWN) { count = steps[3u * params.row]; }
  let begins = count <= 1.0;
  let first = flat_group(group, groups) * (WORKGROUP * GRANULES) + lane;
  for (var k = 0u; k < GRANULES; k++) {
    let i = first + k * WORKGROUP;
    if (i * 4u < params.elements) {
      let inside = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.elements);
      let old = p[i];
      var grad = g[i] * r.x + params.decay * old;
      if (MOMENTUM) {
        let mean = select(params.momentum * m[i] + params.fresh * grad, grad, begins);
        m[i] = select(m[i], mean, inside);
        if (NESTEROV) { grad += params.momentum * mean; } else { grad = mean; }
      }
      let next = old - s.y * grad;
      p[i] = select(old, next, inside);
      if (EMA) { ema[i] = select(ema[i], ema[i] + params.average * (next - ema[i]), inside); }
      if (COPY) { copy[i] = pack_c(select(old, next, inside)); }
    }
  }
}
