// Pooling of planes x [planes, height, width] → y [planes, out_height, out_width]: the largest of each window and its index in the plane, or with
// AVERAGE the mean. NaN counts as the largest value, the last of several; otherwise the first of equal ones is taken. The mean divides by
// the window's size with padding (without what is beyond it), or with OWN by the number of elements in the plane.
// One invocation an element of y. Grid: flat over ceil(planes · out / WORKGROUP) workgroups, folded.
//#use grid
//#use pool2d_window
//#use finite
//#use f32 as x
const WORKGROUP = 64u; // invocations
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> indices: array<u32>; // of y; not used with AVERAGE
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn pool2d(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = flat_group(group, groups) * WORKGROUP + lane;
  let out = params.out_height * params.out_width;
  let plane = at / out;
  if (plane >= params.planes) { return; }
  let place = at - plane * out;
  let start = plane * params.height * params.width;
  // In the padded plane.
  let top = place / params.out_width * params.stride_height;
  let left = place % params.out_width * params.stride_width;
  var sum = 0.0;
  var best = infinity_of4(vec4f(-1.0)).x; // of a window without elements of the plane
  var index = 0xffffffffu;
  var count = 0u;
  for (var j = 0u; j < params.kernel_height; j++) {
    let r = top + j * params.dilation_height - params.pad_height; // wraps around above the plane
    if (r >= params.height) { continue; }
    for (var k = 0u; k < params.kernel_width; k++) {
      let c = left + k * params.dilation_width - params.pad_width;
      if (c >= params.width) { continue; }
      let i = start + r * params.width + c;
      let v = pick_x(x[i / PER_x], i);
      sum += v;
      count++;
      if (index == 0xffffffffu || is_nan(v) || (v > best && !is_nan(best))) {
        best = v;
        index = r * params.width + c;
      }
    }
  }
  if (AVERAGE) {
    y[at] = sum / f32(select(padded_size(top, left), count, OWN));
  } else {
    y[at] = best;
    indices[at] = index;
  }
}
