// u[z, tile, c / 4, 32 o, 4 c] = w[tile, c, 32 o], a 3×3 weight as conv2d_pack packs it, at point z of the 36 of Winograd's transform; channels rounded up
// to 8 by zeros. An invocation transforms one o of four c. Grid: (tiles of 32 o, ceil(c / 8)).
//#use conv2d_winograd
struct Params {
  channels: u32, // c
  step: u32, // vec4s of u from one point to the next
}
@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> u: array<vec4f>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(32, 2)
fn conv2d_winograd_weight(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let four = group.y * 2u + local.y;
  let c = vec4u(four * 4u) + vec4u(0u, 1u, 2u, 3u);
  let exists = c < vec4u(params.channels);
  let first = (group.x * params.channels + min(c, vec4u(params.channels - 1u))) * 288u + local.x;
  var taps: array<array<vec4f, 3>, 3>; // columns
  for (var k = 0u; k < 9u; k++) { //#unroll
    let i = first + k * 32u;
    taps[k % 3u][k / 3u] = select(vec4f(), vec4f(w[i.x], w[i.y], w[i.z], w[i.w]), exists);
  }
  let c0 = of_weights(taps[0]);
  let c1 = of_weights(taps[1]);
  let c2 = of_weights(taps[2]);
  var at = (group.x * groups.y * 2u + four) * 32u + local.x;
  for (var i = 0u; i < 6u; i++) { //#unroll
    let row = of_weights(array(c0[i], c1[i], c2[i]));
    for (var j = 0u; j < 6u; j++) { //#unroll
      u[at] = row[j];
      at += params.step;
    }
  }
}
