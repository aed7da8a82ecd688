// v[z, panel, c, 32 tiles] = x under a tile of 4 × 4 outputs (6 × 6 pixels, zero outside the image) at point z of the 36 of Winograd's transform, zero
// beyond the last tile and channel; channels rounded up to 8. x NCHW, rows of whole granules, one column of padding on the left. Tiles are numbered across, down, by images.
// An invocation transforms a channel of a tile: its four middle columns are a granule of x, the outer two come from its neighbours.
// Grid: (ceil(tiles / 32), ceil(channels / 8)).
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

// Granule `column` of row r of a channel, whose first granule is `base`; zeros outside the image.
fn granule(base: u32, r: i32, column: i32, exists: bool) -> vec4f {
  let inside = exists && r >= 0 && r < i32(params.height) && column >= 0 && column < i32(params.granules);
  return select(vec4f(), unpack_x(x[select(0u, base + u32(r * i32(params.granules) + column), inside)]), inside);
}

@compute @workgroup_size(32, 8)
fn conv2d_winograd_input(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) local: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  let number = params.first + group.x * 32u + local.x;
  let c = group.y * 8u + local.y;
  let column = i32(number % params.across);
  let r = i32(number / params.across % params.down * 4u) - params.top;
  let image = number / (params.across * params.down);
  let exists = c < params.channels && number < params.end;
  let base = (image * params.channels + c) * params.height * params.granules;
  var fours: array<vec4f, 6>;
  for (var i = 0u; i < 6u; i++) { //#unroll
    fours[i] = granule(base, r + i32(i), column, exists);
  }
  // Outside the subgroup's tiles: invocation i loads row i of the column before the first tile, and of the column behind the last one.
  let before = granule(subgroupShuffle(base, 0u), subgroupShuffle(r, 0u) + i32(lane), subgroupShuffle(column, 0u) - 1, c < params.channels && lane < 6u).w;
  let behind = granule(subgroupShuffle(base, 7u), subgroupShuffle(r, 7u) + i32(lane), subgroupShuffle(column, 7u) + 1, subgroupShuffle(number, 7u) < params.end && c < params.channels && lane < 6u).x;
  var d: array<array<f32, 6>, 6>; // columns of pixels
  for (var i = 0u; i < 6u; i++) { //#unroll
    let left = select(subgroupShuffleUp(fours[i].w, 1u), subgroupShuffle(before, i), lane == 0u);
    let right = select(subgroupShuffleDown(fours[i].x, 1u), subgroupShuffle(behind, i), lane == 7u);
    d[0][i] = select(0.0, left, column > 0);
    d[1][i] = fours[i].x;
    d[2][i] = fours[i].y;
    d[3][i] = fours[i].z;
    d[4][i] = fours[i].w;
    d[5][i] = select(0.0, right, column + 1 < i32(params.across));
  }
  let c0 = of_pixels(d[0]);
  let c1 = of_pixels(d[1]);
  let c2 = of_pixels(d[2]);
  let c3 = of_pixels(d[3]);
  let c4 = of_pixels(d[4]);
  let c5 = of_pixels(d[5]);
  var to = (group.x * groups.y * 8u + c) * 32u + local.x;
  for (var i = 0u; i < 6u; i++) { //#unroll
    let row = of_pixels(array(c0[i], c1[i], c2[i], c3[i], c4[i], c5[i]));
    for (var j = 0u; j < 6u; j++) { //#unroll
      v[to] = row[j];
      to += params.step;
    }
  }
}
