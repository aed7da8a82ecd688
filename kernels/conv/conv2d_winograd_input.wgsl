// v[z, panel, c, 32 tiles] = x under a tile of 4 × 4 outputs (6 × 6 pixels, zero outside the image) at point z of the 36 of Winograd's transform, zero
// beyond the last tile and channel. x NCHW. Tiles are numbered across, down, by images, from `first` on. An invocation transforms a channel of
// a tile. Grid: (ceil(tiles / 32), channels rounded up to 4).
//#use conv2d_winograd
//#use f32 as x
struct Params {
  channels: u32,
  height: u32, // of x
  width: u32,
  across: u32, // tiles
  down: u32,
  top: i32, // padding, may be negative
  left: i32,
  first: u32, // number of the launch's first tile
  end: u32, // number behind the last
  step: u32, // elements of v from one point to the next
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read_write> v: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(32)
fn conv2d_winograd_input(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let number = params.first + group.x * 32u + lane;
  let c = group.y;
  let q = i32(number % params.across * 4u) - params.left;
  let r = i32(number / params.across % params.down * 4u) - params.top;
  let image = number / (params.across * params.down);
  let exists = c < params.channels && number < params.end;
  let base = i32((image * params.channels + c) * params.height * params.width) + r * i32(params.width) + q;
  var d: array<array<f32, 6>, 6>; // columns of pixels
  for (var i = 0u; i < 6u; i++) { //#unroll
    let in_row = exists && r + i32(i) >= 0 && r + i32(i) < i32(params.height);
    for (var j = 0u; j < 6u; j++) { //#unroll
      let inside = in_row && q + i32(j) >= 0 && q + i32(j) < i32(params.width);
      let at = u32(select(0, base + i32(i) * i32(params.width) + i32(j), inside));
      d[j][i] = select(0.0, pick_x(x[at / PER_x], at), inside);
    }
  }
  let c0 = of_pixels(d[0]);
  let c1 = of_pixels(d[1]);
  let c2 = of_pixels(d[2]);
  let c3 = of_pixels(d[3]);
  let c4 = of_pixels(d[4]);
  let c5 = of_pixels(d[5]);
  var to = (group.x * groups.y + c) * 32u + lane;
  for (var i = 0u; i < 6u; i++) { //#unroll
    let row = of_pixels(array(c0[i], c1[i], c2[i], c3[i], c4[i], c5[i]));
    for (var j = 0u; j < 6u; j++) { //#unroll
      v[to] = row[j];
      to += params.step;
    }
  }
}
