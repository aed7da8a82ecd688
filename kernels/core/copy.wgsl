// dst[strided] = src[strided], one unit an invocation: a 32-bit word or four (library u32); all counts are of units. Up to 8 dimensions, last first. Grid: flat over
// ceil(count / WORKGROUP) workgroups, folded.
//#use grid
//#use u32x1 as w
const WORKGROUP = 64u; // invocations
const RANK = 1u; // dimensions, 1 to 8
struct Params {
  count: u32,
  src: u32, // unit of src at index 0
  dst: u32, // unit of dst at index 0
  shape0: vec4u, // sizes of the last four dimensions, last first
  shape1: vec4u, // and of the four before
  src0: vec4u, // strides, likewise
  src1: vec4u,
  dst0: vec4u,
  dst1: vec4u,
}
@group(0) @binding(0) var<storage, read> src: array<Pack_w>;
@group(0) @binding(1) var<storage, read_write> dst: array<Pack_w>;
@group(0) @binding(2) var<uniform> params: Params;

// Size of dimension d; strides of src and dst along it.
fn size(d: u32) -> u32 {
  if (d < 4u) { return params.shape0[d & 3u]; }
  return params.shape1[d & 3u];
}
fn strides(d: u32) -> vec2u {
  if (d < 4u) { return vec2u(params.src0[d & 3u], params.dst0[d & 3u]); }
  return vec2u(params.src1[d & 3u], params.dst1[d & 3u]);
}

@compute @workgroup_size(WORKGROUP)
fn copy(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.count) { return; }
  var rest = index;
  var at = vec2u(params.src, params.dst);
  for (var d = 0u; d < RANK - 1u; d++) { //#unroll
    let outer = rest / size(d);
    at += (rest - outer * size(d)) * strides(d);
    rest = outer;
  }
  at += rest * strides(RANK - 1u);
  dst[at.y] = src[at.x];
}
