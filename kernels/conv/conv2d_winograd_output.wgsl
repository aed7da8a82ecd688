// y[n, o, r, q] (NCHW) = bias[o] + the outputs of a tile of 4 × 4 from its sums m[z, o, tile] at the 36 points z of Winograd's transform. An invocation
// makes one channel of a tile. Grid: (panels of 32 tiles, ceil(o / 8)).
//#use conv2d_winograd
//#use f32 as y
struct Params {
  outputs: u32,
  out_height: u32,
  out_width: u32,
  across: u32, // tiles
  down: u32,
  first: u32, // number of the launch's first tile
  end: u32, // number behind the last
  step: u32, // elements of m from one point to the next
  biased: u32, // 1: bias is there
}
@group(0) @binding(0) var<storage, read> m: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(32, 8)
fn conv2d_winograd_output(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let number = params.first + group.x * 32u + local.x;
  let o = group.y * 8u + local.y;
  let q = number % params.across * 4u;
  let r = number / params.across % params.down * 4u;
  let image = number / (params.across * params.down);
  let step = params.step;
  var at = (o * groups.x + group.x) * 32u + local.x;
  var rows: array<vec4f, 6>;
  for (var i = 0u; i < 6u; i++) { //#unroll
    rows[i] = of_products(array(m[at], m[at + step], m[at + 2u * step], m[at + 3u * step], m[at + 4u * step], m[at + 5u * step]));
    at += 6u * step;
  }
  var columns: array<vec4f, 4>;
  for (var j = 0u; j < 4u; j++) { //#unroll
    columns[j] = of_products(array(rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]));
  }
  var plus = 0.0;
  if (params.biased == 1u) { plus = bias[min(o, params.outputs - 1u)]; }
  if (number >= params.end || o >= params.outputs) { return; }
  let base = (image * params.outputs + o) * params.out_height * params.out_width + r * params.out_width + q;
  for (var i = 0u; i < min(4u, params.out_height - r); i++) {
    let four = vec4f(columns[0][i], columns[1][i], columns[2][i], columns[3][i]) + plus;
    let to = base + i * params.out_width;
    if (W_y == 4u) {
      y[to / 4u] = pack_y(four);
    } else {
      for (var j = 0u; j < min(4u, params.out_width - q); j++) { y[to + j] = pack_y(vec4f(four[j], 0.0, 0.0, 0.0)); }
    }
  }
}
