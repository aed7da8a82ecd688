// y[z, i, j] = x[z, i, j] for a matrix of any steps, rows padded with zeros to whole granules of four, so that the matmul kernels can load it.
// One invocation writes a granule. Grid: (ceil(granules of a row / 64), rows, batches).
//#use f32 as x
//#use f32 as y
const WORKGROUP = 64u; // invocations
struct Params {
  size: vec4u, // rows, columns, granules of a row, inner batches
  x: vec4u, // offset; step of a row; of a column (elements)
  y: vec4u, // offset; step of a row (elements, multiples of 4)
  batches: vec4u, // step of an outer, inner batch in x; in y
}
@group(0) @binding(0) var<storage, read> x: array<Word_x>;
@group(0) @binding(1) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn matmul_pack(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let granule = group.x * WORKGROUP + lane;
  if (granule >= params.size.z) { return; }
  let outer = group.z / params.size.w;
  let inner = group.z - outer * params.size.w;
  let first = params.x.x + outer * params.batches.x + inner * params.batches.y + group.y * params.x.y;
  var v = vec4f();
  for (var j = 0u; j < 4u; j++) {
    let column = granule * 4u + j;
    if (column < params.size.y) {
      let i = first + column * params.x.z;
      v[j] = pick_x(x[i / PER_x], i);
    }
  }
  y[(params.y.x + outer * params.batches.z + inner * params.batches.w + group.y * params.y.y) / 4u + granule] = pack_y(v);
}
