// partial[first + i] = (Σ x², number of non-finite elements) over the granules i, i + parts, … of a gradient. Non-finite is seen in the bits:
// WGSL may compute as if there were none. One invocation a part. Grid: flat over ceil(parts / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  elements: u32,
  parts: u32,
  first: u32, // offset of this gradient's parts in `partial`
}
@group(0) @binding(0) var<storage, read> x: array<vec4u>; // f32 bits
@group(0) @binding(1) var<storage, read_write> partial: array<vec2f>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn grad_norm(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let part = flat_group(group, groups) * WORKGROUP + lane;
  if (part >= params.parts) { return; }
  let granules = (params.elements + 3u) / 4u;
  var sum = vec4f();
  var bad = vec4f();
  for (var g = part; g < granules; g += params.parts) {
    let inside = vec4u(g * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.elements);
    let bits = select(vec4u(), x[g], inside);
    let finite = (bits & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
    let v = bitcast<vec4f>(select(vec4u(), bits, finite));
    sum += v * v;
    bad += select(vec4f(1.0), vec4f(), finite);
  }
  partial[params.first + part] = vec2f((sum.x + sum.y) + (sum.z + sum.w), (bad.x + bad.y) + (bad.z + bad.w));
}
