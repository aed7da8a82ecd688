// u[z, tile, c / 4, 32 o, 4 c] = w[tile, c, 32 o], a 3×3 weight as conv2d_pack packs it, at point z of the 36 of Winograd's transform; channels rounded up
// to 8 by zeros. An invocation transforms one o of one c: of four c, the kernel takes three times as long to compile. Grid: (tiles of 32 o, channels / 2).
//#use conv2d_winograd
struct Params {
  channels: u32, // c
  step: u32, // elements of u from one point to the next
}
@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> u: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(32, 2)
fn conv2d_winograd_weight(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let c = group.y * 2u + local.y;
  let first = (group.x * params.channels + min(c, params.channels - 1u)) * 288u + local.x;
  var taps: array<array<f32, 3>, 3>; // columns
  for (var k = 0u; k < 9u; k++) { //#unroll
    taps[k % 3u][k / 3u] = select(0.0, w[first + k * 32u], c < params.channels);
  }
  let c0 = of_weights(taps[0]);
  let c1 = of_weights(taps[1]);
  let c2 = of_weights(taps[2]);
  var at = ((group.x * groups.y / 2u + c / 4u) * 32u + local.x) * 4u + c % 4u;
  for (var i = 0u; i < 6u; i++) { //#unroll
    let row = of_weights(array(c0[i], c1[i], c2[i]));
    for (var j = 0u; j < 6u; j++) { //#unroll
      u[at] = row[j];
      at += params.step;
    }
  }
}
