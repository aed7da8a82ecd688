// y = value: the same 32-bit word everywhere. Four granules of 16 bytes an invocation. Grid: flat over ceil(granules / 256), folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  granules: u32, // granules of 16 bytes
  value: u32, // bits
}
@group(0) @binding(0) var<storage, read_write> y: array<vec4u>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn fill(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = flat_group(group, groups) * (4u * WORKGROUP) + lane;
  for (var g = 0u; g < 4u; g++) {
    let i = first + g * WORKGROUP;
    if (i < params.granules) { y[i] = vec4u(params.value); }
  }
}
