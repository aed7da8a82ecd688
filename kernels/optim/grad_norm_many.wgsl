// grad_norm.wgsl for up to seven small gradients: invocation i computes the part of the first gradient t with i < ends[t]. Unused ones have no parts.
// One invocation a part. Grid: flat over ceil(parts / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  elements0: vec4u, // of gradients 0 … 3
  elements1: vec4u,
  ends0: vec4u, // parts of the gradients up to this one
  ends1: vec4u,
  firsts0: vec4u, // offset of its parts in `partial`
  firsts1: vec4u,
}
@group(0) @binding(0) var<storage, read> x0: array<vec4u>; // f32 bits
@group(0) @binding(1) var<storage, read> x1: array<vec4u>;
@group(0) @binding(2) var<storage, read> x2: array<vec4u>;
@group(0) @binding(3) var<storage, read> x3: array<vec4u>;
@group(0) @binding(4) var<storage, read> x4: array<vec4u>;
@group(0) @binding(5) var<storage, read> x5: array<vec4u>;
@group(0) @binding(6) var<storage, read> x6: array<vec4u>;
@group(0) @binding(7) var<storage, read_write> partial: array<vec2f>;
@group(0) @binding(8) var<uniform> params: Params;

fn bits_of(t: u32, g: u32) -> vec4u {
  switch t {
    case 0u: { return x0[g]; }
    case 1u: { return x1[g]; }
    case 2u: { return x2[g]; }
    case 3u: { return x3[g]; }
    case 4u: { return x4[g]; }
    case 5u: { return x5[g]; }
    default: { return x6[g]; }
  }
}

// Value t of eight.
fn pick(a: vec4u, b: vec4u, t: u32) -> u32 { return select(b[t & 3u], a[t & 3u], t < 4u); }

@compute @workgroup_size(WORKGROUP)
fn grad_norm_many(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = flat_group(group, groups) * WORKGROUP + lane;
  if (index >= params.ends1.z) { return; }
  var t = 0u;
  var begin = 0u;
  for (; index >= pick(params.ends0, params.ends1, t); t++) { begin = pick(params.ends0, params.ends1, t); }
  let part = index - begin;
  let parts = pick(params.ends0, params.ends1, t) - begin;
  let elements = pick(params.elements0, params.elements1, t);
  var sum = vec4f();
  var bad = vec4f();
  for (var g = part; g < (elements + 3u) / 4u; g += parts) {
    let inside = vec4u(g * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(elements);
    let bits = select(vec4u(), bits_of(t, g), inside);
    let finite = (bits & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
    let v = bitcast<vec4f>(select(vec4u(), bits, finite));
    sum += v * v;
    bad += select(vec4f(1.0), vec4f(), finite);
  }
  partial[pick(params.firsts0, params.firsts1, t) + part] = vec2f((sum.x + sum.y) + (sum.z + sum.w), (bad.x + bad.y) + (bad.z + bad.w));
}
