// y [K, columns] = Wᵗ for rows of a quantised weight, in f32, which has them exactly. One invocation a load of 16 bytes of each of four rows of W;
// neighbours take neighbouring rows, whose values lie next to each other in y. Rows beyond the last repeat it.
// Grid: flat over ceil(columns / 4 · loads / WORKGROUP) workgroups, folded.
//#use grid
//#use quantized_int4 as b
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32,
  loads: u32, // of a row of b
  granules: u32, // of a row of b: K / 4
  scales: u32, // of a row
  first_load: u32,
  first_scale: u32,
  columns: u32, // granules of a row of y
}
@group(0) @binding(0) var<storage, read> b: array<vec4u>;
@group(0) @binding(1) var<storage, read> scales: array<u32>; // two f16 to a word
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

fn scale_at(i: u32) -> f32 { return unpack2x16float(scales[i >> 1u] >> ((i & 1u) * 16u)).x; }

@compute @workgroup_size(WORKGROUP)
fn dequantize_columns(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let load = index / params.columns;
  if (load >= params.loads) { return; }
  let column = index % params.columns;
  let row = min(vec4u(column * 4u) + vec4u(0u, 1u, 2u, 3u), vec4u(params.rows - 1u));
  let at = vec4u(params.first_scale + load / LOADS_b) + row * params.scales;
  let scale = vec4f(scale_at(at.x), scale_at(at.y), scale_at(at.z), scale_at(at.w));
  let source = vec4u(params.first_load + load) + row * params.loads;
  let p0 = b[source.x];
  let p1 = b[source.y];
  let p2 = b[source.z];
  let p3 = b[source.w];
  for (var i = 0u; i < GRANULES_b; i++) { //#unroll
    let granule = load * GRANULES_b + i;
    if (granule < params.granules) {
      let word = i * 4u / VALUES_b;
      let quad = i % (VALUES_b / 4u);
      let w = transpose(mat4x4f(values_b(p0[word], quad), values_b(p1[word], quad), values_b(p2[word], quad), values_b(p3[word], quad)));
      let to = granule * 4u * params.columns + column;
      y[to] = w[0] * scale;
      y[to + params.columns] = w[1] * scale;
      y[to + 2u * params.columns] = w[2] * scale;
      y[to + 3u * params.columns] = w[3] * scale;
    }
  }
}
