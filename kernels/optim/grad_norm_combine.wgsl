// y[i] = Σ of partial[i], partial[i + parts], …, both components; with FINISH (one part) the root of the sum of squares as bits in norm[0],
// NaN if an element, or the sum, is not finite. One invocation a part. Grid: flat over ceil(parts / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
const FINISH = false;
struct Params {
  count: u32, // elements of partial
  parts: u32,
}
@group(0) @binding(0) var<storage, read> partial: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> norm: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn grad_norm_combine(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let part = flat_group(group, groups) * WORKGROUP + lane;
  if (part >= params.parts) { return; }
  var sum = vec2f();
  for (var i = part; i < params.count; i += params.parts) { sum += partial[i]; }
  if (!FINISH) {
    y[part] = sum;
    return;
  }
  let overflow = (bitcast<u32>(sum.x) & 0x7f800000u) == 0x7f800000u;
  norm[0] = select(bitcast<u32>(sqrt(sum.x)), 0x7fc00000u, overflow || sum.y > 0.0);
}
