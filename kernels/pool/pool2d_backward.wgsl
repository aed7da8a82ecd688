// Gradient of pool2d: dx[plane, i] = Σ of g over the windows whose largest element is i, or with AVERAGE over the windows that i is in, each divided
// by what the window was divided by (OWN as there). Windows are added in row-major order. One invocation an element of dx.
// Grid: flat over ceil(planes · height · width / WORKGROUP) workgroups, folded.
//#use grid
//#use pool2d_window
//#use f32 as g
const WORKGROUP = 64u; // invocations
@group(0) @binding(0) var<storage, read> g: array<Word_g>;
@group(0) @binding(1) var<storage, read> indices: array<u32>; // of y; not used with AVERAGE
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

// Positions in 0 … size − 1 of the window of `kernel` padded positions from `start`.
fn inside(start: u32, kernel: u32, pad: u32, size: u32) -> u32 {
  return min(max(start + kernel, pad) - pad, size) - (max(start, pad) - pad);
}

@compute @workgroup_size(WORKGROUP)
fn pool2d_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = flat_group(group, groups) * WORKGROUP + lane;
  let size = params.height * params.width;
  let plane = at / size;
  if (plane >= params.planes) { return; }
  let place = at - plane * size;
  // In the padded plane; windows that may hold it begin within their reach before it.
  let r = place / params.width + params.pad_height;
  let c = place % params.width + params.pad_width;
  let reach_height = params.dilation_height * (params.kernel_height - 1u) + 1u;
  let reach_width = params.dilation_width * (params.kernel_width - 1u) + 1u;
  let first_row = (max(r + 1u, reach_height) - reach_height + params.stride_height - 1u) / params.stride_height;
  let first_column = (max(c + 1u, reach_width) - reach_width + params.stride_width - 1u) / params.stride_width;
  let last_row = min(r / params.stride_height + 1u, params.out_height);
  let last_column = min(c / params.stride_width + 1u, params.out_width);
  let start = plane * params.out_height * params.out_width;
  var sum = 0.0;
  for (var j = first_row; j < last_row; j++) {
    for (var k = first_column; k < last_column; k++) {
      let i = start + j * params.out_width + k;
      let v = pick_g(g[i / PER_g], i);
      if (AVERAGE) {
        let top = j * params.stride_height;
        let left = k * params.stride_width;
        let own = inside(top, params.kernel_height, params.pad_height, params.height) *
          inside(left, params.kernel_width, params.pad_width, params.width);
        sum += v / f32(select(padded_size(top, left), own, OWN));
      } else if (indices[i] == place) {
        sum += v;
      }
    }
  }
  dx[at] = sum;
}
