// The second half of a Muon step for one matrix, in place: p ← p − η λ p − η s o, and with COPY copy ← p rounded to its dtype, with EMA
// ema ← ema + (1 − γ)(p − ema). η comes from `state` (see adamw_prepare.wgsl), which also says "skip".
// An invocation updates GRANULES granules of 4. Grid: flat over ceil(granules / (WORKGROUP · GRANULES)) workgroups, folded.
//#use grid
//#use f32 as p
//#use bf16 as c
const WORKGROUP = 64u; // invocations
const GRANULES = 2u; // granules an invocation, a workgroup apart
const COPY = false;
const EMA = false;
struct Params {
  elements: u32, // in the window; elements after the last are not changed
  scale: f32, // s
  decay: f32, // λ
  fresh: f32, // 1 − γ
}
@group(0) @binding(0) var<storage, read_write> p: array<Pack_p>;
@group(0) @binding(1) var<storage, read> o: array<Pack_p>;
@group(0) @binding(2) var<storage, read_write> copy: array<Pack_c>;
@group(0) @binding(3) var<storage, read_write> ema: array<Pack_p>;
@group(0) @binding(4) var<storage, read> state: array<vec4f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn muon(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let rate = state[0].y;
  if (state[1].y != 0.0) { return; }
  let first = flat_group(group, groups) * (WORKGROUP * GRANULES) + lane;
  for (var k = 0u; k < GRANULES; k++) {
    let i = first + k * WORKGROUP;
    if (i * 4u < params.elements) {
      let inside = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.elements);
      let old = p[i];
      let next = select(old, old - rate * (params.decay * old + params.scale * o[i]), inside);
      p[i] = next;
      if (EMA) { ema[i] = select(ema[i], ema[i] + params.fresh * (next - ema[i]), inside); }
      if (COPY) { copy[i] = pack_c(next); }
    }
  }
}
