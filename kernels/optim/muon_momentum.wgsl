// The first half of a Muon step for one matrix: g ← factor · g; m ← m + (1 − μ)(g − m); u ← g + μ (m − g), Nesterov's look ahead. The factor comes
// from `state` (see adamw_prepare.wgsl), which also says "skip": m stays then, and u is 0.
// An invocation takes GRANULES granules of 4. Grid: flat over ceil(granules / (WORKGROUP · GRANULES)) workgroups, folded.
//#use grid
//#use f32 as p
const WORKGROUP = 64u; // invocations
const GRANULES = 2u; // granules an invocation, a workgroup apart
struct Params {
  elements: u32, // in the window; elements after the last are not changed
  momentum: f32, // μ
}
@group(0) @binding(0) var<storage, read_write> m: array<Pack_p>;
@group(0) @binding(1) var<storage, read> g: array<Pack_p>;
@group(0) @binding(2) var<storage, read_write> u: array<Pack_p>;
@group(0) @binding(3) var<storage, read> state: array<vec4f>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn muon_momentum(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let r = state[1]; // factor, skip
  let skip = r.y != 0.0;
  let first = flat_group(group, groups) * (WORKGROUP * GRANULES) + lane;
  for (var k = 0u; k < GRANULES; k++) {
    let i = first + k * WORKGROUP;
    if (i * 4u < params.elements) {
      if (skip) {
        u[i] = vec4f();
      } else {
        let inside = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.elements);
        let grad = g[i] * r.x;
        let mean = m[i] + (1.0 - params.momentum) * (grad - m[i]);
        m[i] = select(m[i], mean, inside);
        u[i] = grad + params.momentum * (mean - grad);
      }
    }
  }
}
