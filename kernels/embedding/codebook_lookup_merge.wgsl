// The nearest of the parts' candidates for each row: best [rows, parts] of codebook_lookup → indices [rows], distances [rows]. Parts come in the
// order of their codes, so that the first of equal distances has the lowest index. With CONTINUE the codes before this window are in indices and
// distances already. One invocation a row. Grid: flat over ceil(rows / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
const CONTINUE = false;
struct Params {
  rows: u32, // in the window
  parts: u32,
}
@group(0) @binding(0) var<storage, read> best: array<vec2u>;
@group(0) @binding(1) var<storage, read_write> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> distances: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

// As in codebook_lookup.wgsl.
fn key_of(distance: f32) -> u32 {
  let bits = bitcast<u32>(distance);
  return select(bits + 1u, 0u, bits > 0x7f800000u);
}

@compute @workgroup_size(WORKGROUP)
fn codebook_lookup_merge(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups) * WORKGROUP + lane;
  if (row >= params.rows) { return; }
  var key = 0xffffffffu;
  var place = 0u;
  if (CONTINUE) {
    key = key_of(distances[row]);
    place = indices[row];
  }
  for (var s = 0u; s < params.parts; s++) {
    let candidate = best[row * params.parts + s];
    if (candidate.x < key) {
      key = candidate.x;
      place = candidate.y;
    }
  }
  indices[row] = place;
  distances[row] = bitcast<f32>(select(key - 1u, 0x7fc00000u, key == 0u));
}
