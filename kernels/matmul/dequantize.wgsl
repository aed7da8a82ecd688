// y [rows, K] = the values of rows of a quantised weight, in f32, which has them exactly. One invocation a load of 16 bytes.
// Grid: flat over ceil(rows · loads / WORKGROUP) workgroups, folded.
//#use grid
//#use quantized_int4 as b
const WORKGROUP = 64u; // invocations
struct Params {
  rows: u32,
  loads: u32, // of a row of b
  granules: u32, // of a row of y: K / 4
  scales: u32, // of a row
  first_load: u32,
  first_scale: u32,
  first_y: u32, // granule
}
@group(0) @binding(0) var<storage, read> b: array<vec4u>;
@group(0) @binding(1) var<storage, read> scales: array<u32>; // two f16 to a word
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn dequantize(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  let row = index / params.loads;
  if (row >= params.rows) { return; }
  let load = index % params.loads;
  let at = params.first_scale + row * params.scales + load / LOADS_b;
  let scale = unpack2x16float(scales[at >> 1u] >> ((at & 1u) * 16u)).x;
  let words = b[params.first_load + index];
  for (var i = 0u; i < GRANULES_b; i++) { //#unroll
    let granule = load * GRANULES_b + i;
    if (granule < params.granules) {
      y[params.first_y + row * params.granules + granule] = values_b(words[i * 4u / VALUES_b], i % (VALUES_b / 4u)) * scale;
    }
  }
}
