// Gradient of swiglu_joint.wgsl: dx [rows, 2F] = (g · up · silu′(gate), g · silu(gate)). Two granules of g an invocation.
// Grid: flat over ceil(rows · granules / (2 · WORKGROUP)) workgroups, folded.
//#use grid
//#use activations
//#use f32 as g
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
struct Params {
  count: u32, // granules of g
  granules: u32, // a row of g
}
@group(0) @binding(0) var<storage, read> g: array<Pack_g>;
@group(0) @binding(1) var<storage, read> x: array<Pack_x>;
@group(0) @binding(2) var<storage, read_write> dx: array<Pack_y>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn swiglu_joint_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = flat_group(group, groups) * (2u * WORKGROUP) + lane;
  for (var k = 0u; k < 2u; k++) {
    let i = first + k * WORKGROUP;
    if (i < params.count) {
      let at = i + i / params.granules * params.granules;
      let slope = unpack_g(g[i]);
      let gate = unpack_x(x[at]);
      let up = unpack_x(x[at + params.granules]);
      dx[at] = pack_y(slope * up * silu_slope4(gate));
      dx[at + params.granules] = pack_y(slope * silu4(gate));
    }
  }
}
