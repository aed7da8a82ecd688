// count[0] += number of elements of x that are infinite or NaN, seen in their bits: WGSL may compute as if there were none.
// A word holds one f32, or two 16-bit elements with HALVES (even element low); EXPONENT is the mask of the dtype's exponent bits, all of
// them set if the element is not finite. Invocation i takes the granules of 4 words i, i + invocations, …; integer sums have no order.
// Grid: flat over ceil(invocations / WORKGROUP) workgroups, folded.
//#use grid
const WORKGROUP = 64u; // invocations
const HALVES = false;
const EXPONENT = 0x7f800000u; // bf16: 0x7f80, f16: 0x7c00
struct Params {
  elements: u32,
  invocations: u32,
}
@group(0) @binding(0) var<storage, read> x: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> count: array<atomic<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

// How many of the elements `first` … of a granule of words (each shifted down to the element) are inside the tensor and not finite.
fn bad(words: vec4u, first: vec4u) -> u32 {
  let is_bad = (words & vec4u(EXPONENT)) == vec4u(EXPONENT);
  let found = select(vec4u(), vec4u(1u), is_bad & (first < vec4u(params.elements)));
  return (found.x + found.y) + (found.z + found.w);
}

@compute @workgroup_size(WORKGROUP)
fn count_nonfinite(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = flat_group(group, groups) * WORKGROUP + lane;
  if (start >= params.invocations) { return; }
  let per = select(1u, 2u, HALVES);
  let granules = (params.elements + 4u * per - 1u) / (4u * per);
  var sum = 0u;
  for (var g = start; g < granules; g += params.invocations) {
    let first = (vec4u(g * 4u) + vec4u(0u, 1u, 2u, 3u)) * per;
    sum += bad(x[g], first);
    if (HALVES) { sum += bad(x[g] >> vec4u(16u), first + vec4u(1u)); }
  }
  if (sum > 0u) { atomicAdd(&count[0], sum); }
}
