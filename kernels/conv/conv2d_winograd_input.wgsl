// v[z, panel, c, 32 tiles] = x under a tile of 4 × 4 outputs (6 × 6 pixels, zero outside the image) at point z of the 36 of Winograd's transform, zero
// beyond the last tile and channel. x NCHW, rows of whole granules, one column of padding on the left. Tiles are numbered across, down, by images.
// An invocation transforms a channel of a tile: its four middle columns are a granule of x, the outer two come from its neighbours.
// Grid: (ceil(tiles / 32), channels rounded up to 4).
enable subgroups;
//#use conv2d_winograd
//#use f32 as x
struct Params {
  channels: u32,
  height: u32, // of x
  granules: u32, // of a row of x, at most `across`
  across: u32, // tiles
  down: u32,
  top: i32, // padding, may be negative
  first: u32, // number of the launch's first tile
  end: u32, // number behind the last
  step: u32, // elements of v from one point to the next
}
@group(0) @binding(0) var<storage, read> x: array<Pack_x>;
@group(0) @binding(1) var<storage, read_write> v: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(32)
fn conv2d_winograd_input(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) index: u32, @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_size) lanes: u32) {
  let number = params.first + group.x * 32u + index;
  let c = group.y;
  let column = number % params.across;
  let r = i32(number / params.across % params.down * 4u) - params.top;
  let image = number / (params.across * params.down);
  let exists = c < params.channels && number < params.end;
  let base = (image * params.channels + c) * params.height * params.granules + column;
  // Neighbours in the subgroup hold the neighbouring tiles, but for its first and last invocation.
  let has_left = subgroupShuffleUp(number, 1u) + 1u == number && lane > 0u;
  let has_right = subgroupShuffleDown(number, 1u) == number + 1u && lane + 1u < lanes;
  var inside: array<bool, 6>;
  var places: array<u32, 6>;
  var fours: array<vec4f, 6>;
  for (var i = 0u; i < 6u; i++) { //#unroll
    inside[i] = exists && r + i32(i) >= 0 && r + i32(i) < i32(params.height);
    places[i] = select(0u, base + u32(r + i32(i)) * params.granules, inside[i]);
    fours[i] = select(vec4f(), unpack_x(x[places[i]]), inside[i] && column < params.granules);
  }
  var lefts: array<f32, 6>;
  var rights: array<f32, 6>;
  for (var i = 0u; i < 6u; i++) { //#unroll
    lefts[i] = subgroupShuffleUp(fours[i].w, 1u);
    rights[i] = subgroupShuffleDown(fours[i].x, 1u);
  }
  let left_exists = column > 0u && column <= params.granules;
  let right_exists = column + 1u < params.granules;
  var d: array<array<f32, 6>, 6>; // columns of pixels
  for (var i = 0u; i < 6u; i++) { //#unroll
    var left = lefts[i];
    var right = rights[i];
    if (!has_left && left_exists && inside[i]) { left = unpack_x(x[places[i] - 1u]).w; }
    if (!has_right && right_exists && inside[i]) { right = unpack_x(x[places[i] + 1u]).x; }
    d[0][i] = select(0.0, left, left_exists && inside[i]);
    d[1][i] = fours[i].x;
    d[2][i] = fours[i].y;
    d[3][i] = fours[i].z;
    d[4][i] = fours[i].w;
    d[5][i] = select(0.0, right, right_exists && inside[i]);
  }
  let c0 = of_pixels(d[0]);
  let c1 = of_pixels(d[1]);
  let c2 = of_pixels(d[2]);
  let c3 = of_pixels(d[3]);
  let c4 = of_pixels(d[4]);
  let c5 = of_pixels(d[5]);
  var to = (group.x * groups.y + c) * 32u + index;
  for (var i = 0u; i < 6u; i++) { //#unroll
    let row = of_pixels(array(c0[i], c1[i], c2[i], c3[i], c4[i], c5[i]));
    for (var j = 0u; j < 6u; j++) { //#unroll
      v[to] = row[j];
      to += params.step;
    }
  }
}
