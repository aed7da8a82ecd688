// y[i] = apply(a[i], b[i], c[i]) for contiguous tensors of one shape; inputs that the expression does not use are bound to `a` again.
// Each invocation computes GRANULES granules of W elements. Grid: flat over ceil(granules / (WORKGROUP · GRANULES)) workgroups, folded.
//#use grid
//#use f32 as a
//#use f32 as b
//#use f32 as c
//#use f32 as y
//#use copy as f
const WORKGROUP = 64u; // invocations
const GRANULES = 4u; // granules an invocation, a workgroup apart
struct Params {
  granules: u32, // in the window
  scalars: vec4f, // s.x … s.w of the expression
}
@group(0) @binding(0) var<storage, read> a: array<Pack_a>;
@group(0) @binding(1) var<storage, read> b: array<Pack_b>;
@group(0) @binding(2) var<storage, read> c: array<Pack_c>;
@group(0) @binding(3) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn map(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = flat_group(group, groups) * (WORKGROUP * GRANULES);
  // An end that is known only at run time: software Vulkan writes out loops of a known length, and takes four times as long to compile them.
  let end = min(params.granules, first + WORKGROUP * GRANULES);
  for (var i = first + lane; i < end; i += WORKGROUP) {
    y[i] = pack_y(V4_y(apply_f(unpack_a(a[i]), unpack_b(b[i]), unpack_c(c[i]), params.scalars)));
  }
}
