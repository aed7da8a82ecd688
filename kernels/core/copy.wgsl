// dst[strided] = src[strided], one 32-bit word an invocation; shape, strides and offsets count words. Up to 8 dimensions, last first. Grid: flat over ceil(words / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  words: u32,
  src: u32, // word of src at index 0
  dst: u32, // word of dst at index 0
  rank: u32, // dimensions
  shape0: vec4u, // sizes of the last four dimensions, last first
  shape1: vec4u, // and of the four before
  src0: vec4u, // strides, likewise
  src1: vec4u,
  dst0: vec4u,
  dst1: vec4u,
}
@group(0) @binding(0) var<storage, read> src: array<u32>;
@group(0) @binding(1) var<storage, read_write> dst: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn copy(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.words) { return; }
  var rest = index;
  var at = vec2u(params.src, params.dst);
  for (var d = 0u; d < params.rank; d++) {
    let size = select(params.shape1[d & 3u], params.shape0[d & 3u], d < 4u);
    let i = rest % size;
    rest = rest / size;
    if (d < 4u) {
      at += i * vec2u(params.src0[d & 3u], params.dst0[d & 3u]);
    } else {
      at += i * vec2u(params.src1[d & 3u], params.dst1[d & 3u]);
    }
  }
  dst[at.y] = src[at.x];
}
