// u[z, tile, c / 4, 32 o, 4 c] = weight[o, c] (3×3) at point z of the 36 of Winograd's transform, zero beyond the last o and c. With FLIP (gradient of
// the input) o and c change their places and the taps are reversed. An invocation transforms one o of four c.
// Grid: (ceil(o / 32), ceil(c / 8)).
//#use conv2d_winograd
//#use f32 as x
const FLIP = false;
struct Params {
  outer: u32, // o of the weight [outer, inner, 3, 3]
  inner: u32, // c
  step: u32, // vec4s of u from one point to the next
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read_write> u: array<vec4f>;
@group(0) @binding(2) var<uniform> params: Params;

fn element(i: u32) -> f32 { return pick_x(x[i / PER_x], i); }

@compute @workgroup_size(32, 2)
fn conv2d_winograd_weight(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let outputs = select(params.outer, params.inner, FLIP);
  let channels = select(params.inner, params.outer, FLIP);
  let o = group.x * 32u + local.x;
  let four = group.y * 2u + local.y;
  let c = vec4u(four * 4u) + vec4u(0u, 1u, 2u, 3u);
  let exists = (c < vec4u(channels)) & vec4<bool>(o < outputs);
  let near_o = min(o, outputs - 1u);
  let near_c = min(c, vec4u(channels - 1u));
  let first = 9u * select(near_o * params.inner + near_c, near_c * params.inner + near_o, FLIP);
  var w: array<array<vec4f, 3>, 3>; // columns
  for (var k = 0u; k < 9u; k++) { //#unroll
    let i = first + select(k, 8u - k, FLIP);
    w[k % 3u][k / 3u] = select(vec4f(), vec4f(element(i.x), element(i.y), element(i.z), element(i.w)), exists);
  }
  let c0 = of_weights(w[0]);
  let c1 = of_weights(w[1]);
  let c2 = of_weights(w[2]);
  var at = (group.x * groups.y * 2u + four) * 32u + local.x;
  for (var i = 0u; i < 6u; i++) { //#unroll
    let row = of_weights(array(c0[i], c1[i], c2[i]));
    for (var j = 0u; j < 6u; j++) { //#unroll
      u[at] = row[j];
      at += params.step;
    }
  }
}
