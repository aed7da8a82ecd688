// From the sums of each channel row, sums [N · C, chunks] of group_norm_sums: totals [N · groups], the sums over a group of both, each times the
// channel's weight, and the gradients of weight and bias [C], the sums over the images of the second and of the first. One invocation
// a total, then one a channel. Grid: flat over ceil((N · groups + C) / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  images: u32,
  channels: u32,
  per_group: u32,
  chunks: u32,
  weighted: u32,
}
@group(0) @binding(0) var<storage, read> sums: array<vec2f>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> totals: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

fn over_chunks(row: u32) -> vec2f {
  var sum = vec2f();
  for (var k = 0u; k < params.chunks; k++) { sum += sums[row * params.chunks + k]; }
  return sum;
}

@compute @workgroup_size(WORKGROUP)
fn group_norm_finish(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let rows = params.images * params.channels / params.per_group;
  if (index < rows) {
    var total = vec2f();
    for (var k = 0u; k < params.per_group; k++) {
      let row = index * params.per_group + k;
      var factor = 1.0;
      if (params.weighted == 1u) { factor = weight[row % params.channels]; }
      total += over_chunks(row) * factor;
    }
    totals[index] = total;
    return;
  }
  let channel = index - rows;
  if (channel >= params.channels) { return; }
  var total = vec2f();
  for (var n = 0u; n < params.images; n++) { total += over_chunks(n * params.channels + channel); }
  dweight[channel] = total.y;
  dbias[channel] = total.x;
}
