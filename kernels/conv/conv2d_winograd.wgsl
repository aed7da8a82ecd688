// m[z, o, tile] = sum over c of u[z, o, c] · v[z, c, tile] for the 36 points z of Winograd's transform; u from conv2d_winograd_weight, v from
// conv2d_winograd_input. For subgroups of 8 and no workgroup memory (software Vulkan). A workgroup is one subgroup: 32 o × 32 tiles, a lane 4 of
// the tiles. Both operands lie as it reads them, so that each step of an address is a constant. m [z, 32 · ceil(o / 32), 32 · panels].
// Grid: (ceil(o / 32), panels of 32 tiles, 36).
enable subgroups;
struct Params {
  terms: u32, // fours of c
  step_u: u32, // vec4s from one point to the next
  step_v: u32,
  step_m: u32,
}
@group(0) @binding(0) var<storage, read> u: array<vec4f>;
@group(0) @binding(1) var<storage, read> v: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(8)
fn conv2d_winograd(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
  var from_u = group.z * params.step_u + group.x * params.terms * 32u + lane;
  var from_v = group.z * params.step_v + group.y * params.terms * 32u + lane;
  var sums: array<vec4f, 32>;
  for (var k = 0u; k < params.terms; k++) {
    let a = array(u[from_u], u[from_u + 8u], u[from_u + 16u], u[from_u + 24u]);
    let b = array(v[from_v], v[from_v + 8u], v[from_v + 16u], v[from_v + 24u]);
    for (var o = 0u; o < 32u; o++) { //#unroll
      let four = subgroupShuffle(a[o / 8u], o % 8u);
      for (var t = 0u; t < 4u; t++) { //#unroll
        sums[o] = fma(vec4f(four[t]), b[t], sums[o]);
      }
    }
    from_u += 32u;
    from_v += 32u;
  }
  let to = group.z * params.step_m + (group.x * 32u * groups.y + group.y) * 8u + lane;
  for (var o = 0u; o < 32u; o++) { //#unroll
    m[to + o * groups.y * 8u] = sums[o];
  }
}
