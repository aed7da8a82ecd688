// best[m, s] = (key of the smallest squared distance, its index) between row m of z and the codes of part s of the codebook, the lowest index
// among equals. The key of a distance is its bits + 1, 0 for NaN: a NaN comes first, as in an argmin. z [rows, 4 DEPTH] and codes [codes, 4 DEPTH] in f32, both normalised, padded with zeros. An invocation keeps ROWS rows of z in
// registers and walks the codes of its part, which all invocations read together: no distance is stored. Parts make enough work for a GPU, and
// codebook_lookup_merge joins them. Grid: flat over (blocks of WORKGROUP · ROWS rows fastest, parts), folded.
//#use grid
const WORKGROUP = 64u; // invocations
const ROWS = 4u; // rows of z an invocation, the lanes of a vec4
const DEPTH = 2u; // vec4s of a code
struct Params {
  rows: u32, // rows of z in the window
  codes: u32, // in the window
  first: u32, // index of the window's first code
  per_part: u32, // codes
  parts: u32, // in the window
}
@group(0) @binding(0) var<storage, read> z: array<vec4f>;
@group(0) @binding(1) var<storage, read> codes: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> best: array<vec2u>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn codebook_lookup(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let blocks = (params.rows + WORKGROUP * ROWS - 1u) / (WORKGROUP * ROWS);
  let index = flat_group(group, groups);
  let part = index / blocks;
  let row = (index % blocks * WORKGROUP + lane) * ROWS;
  if (part >= params.parts || row >= params.rows) { return; }
  var values: array<vec4f, ROWS * DEPTH>;
  for (var i = 0u; i < ROWS * DEPTH; i++) { values[i] = z[min(row * DEPTH + i, params.rows * DEPTH - 1u)]; }
  var keys = vec4u(0xffffffffu);
  var places = vec4u(0u);
  let last = min(params.codes, (part + 1u) * params.per_part);
  for (var k = part * params.per_part; k < last; k++) {
    var sums = array<vec4f, ROWS>();
    for (var d = 0u; d < DEPTH; d++) {
      let code = codes[k * DEPTH + d];
      for (var r = 0u; r < ROWS; r++) {
        let difference = values[r * DEPTH + d] - code;
        sums[r] = fma(difference, difference, sums[r]);
      }
    }
    let m = transpose(mat4x4f(sums[0], sums[1], sums[2], sums[3]));
    let distance = (m[0] + m[1]) + (m[2] + m[3]);
    let bits = bitcast<vec4u>(distance);
    let key = select(bits + 1u, vec4u(), bits > vec4u(0x7f800000u));
    let nearer = key < keys;
    keys = select(keys, key, nearer);
    places = select(places, vec4u(k), nearer);
  }
  for (var r = 0u; r < ROWS; r++) {
    if (row + r < params.rows) { best[(row + r) * params.parts + part] = vec2u(keys[r], params.first + places[r]); }
  }
}
