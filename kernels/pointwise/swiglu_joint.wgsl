// y = silu(gate) · up for rows x [rows, 2F] = (gate, up), y [rows, F]. Four granules an invocation.
// Grid: flat over ceil(rows · granules / (4 · WORKGROUP)) workgroups, folded.
//#use grid
//#use activations
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
struct Params {
  count: u32, // granules of y
  granules: u32, // a row of y
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn swiglu_joint(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = flat_group(group, groups) * (4u * WORKGROUP) + lane;
  for (var k = 0u; k < 4u; k++) {
    let i = first + k * WORKGROUP;
    if (i < params.count) {
      let at = i + i / params.granules * params.granules;
      y[i] = pack_y(silu4(unpack_x(x[at])) * unpack_x(x[at + params.granules]));
    }
  }
}
