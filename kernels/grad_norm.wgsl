// partial[first + i] = (Σ x² of the small, of the medium and of the large, number of non-finite elements) over the granules i, i + parts, … of a
// gradient. Non-finite is seen in the bits: WGSL may compute as if there were none. No square overflows or vanishes (as in LAPACK's nrm2): what is
// below 2^-40 is squared times 2^84, what is above 2^40 times 2^-84, each into its own sum. One invocation a part. Grid: flat over
// ceil(parts / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
const UP = 1.9342813113834067e25; // 2^84
const DOWN = 5.169878828456423e-26; // 2^-84
struct Params {
  elements: u32,
  parts: u32,
  first: u32, // where in `partial` this gradient's parts start
}
@group(0) @binding(0) var<storage, read> x: array<vec4u>; // f32 bits
@group(0) @binding(1) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(2) var<uniform> params: Params;

fn total(v: vec4f) -> f32 { return (v.x + v.y) + (v.z + v.w); }

@compute @workgroup_size(WORKGROUP)
fn grad_norm(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let part = flat_group(group, groups) * WORKGROUP + lane;
  if (part >= params.parts) { return; }
  let granules = (params.elements + 3u) / 4u;
  var small = vec4f();
  var medium = vec4f();
  var large = vec4f();
  var bad = vec4f();
  for (var g = part; g < granules; g += params.parts) {
    let inside = vec4u(g * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.elements);
    let bits = select(vec4u(), x[g], inside);
    let finite = (bits & vec4u(0x7f800000u)) != vec4u(0x7f800000u);
    let v = abs(bitcast<vec4f>(select(vec4u(), bits, finite)));
    let isSmall = v < vec4f(9.094947017729282e-13);
    let isLarge = v > vec4f(1099511627776.0);
    let s = select(vec4f(), v, isSmall) * UP;
    let m = select(v, vec4f(), isSmall | isLarge);
    let l = select(vec4f(), v, isLarge) * DOWN;
    small += s * s;
    medium += m * m;
    large += l * l;
    bad += select(vec4f(1.0), vec4f(), finite);
  }
  partial[params.first + part] = vec4f(total(small), total(medium), total(large), total(bad));
}
