// x[i] += by: moves lengths and positions on, on the device. One invocation an element.
const WORKGROUP = 64u; // invocations
struct Params {
  count: u32,
  by: u32,
}
@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn advance(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < params.count) { x[id.x] += params.by; }
}
