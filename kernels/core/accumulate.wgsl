// x += y for contiguous tensors of one shape, arithmetic in f32. Four granules an invocation. Grid: flat over ceil(granules / 256), folded.
//#use grid
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
struct Params {
  granules: u32,
}
@group(0) @binding(0) var<storage, read_write> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read> y: array<Pack_y>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn accumulate(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = flat_group(group, groups) * (4u * WORKGROUP) + lane;
  for (var g = 0u; g < 4u; g++) {
    let i = first + g * WORKGROUP;
    if (i < params.granules) { x[i] = pack_x(unpack_x(x[i]) + unpack_y(y[i])); }
  }
}
