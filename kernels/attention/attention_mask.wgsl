// mask = starts [batch] followed by documents [batch · keys], as words: the two masks in one binding.
// One invocation a word. Grid: flat over ceil(words / WORKGROUP), folded.
//#use grid
const WORKGROUP = 64u; // invocations
struct Params {
  batch: u32,
  words: u32, // words of the mask
}
@group(0) @binding(0) var<storage, read> starts: array<u32>;
@group(0) @binding(1) var<storage, read> documents: array<u32>;
@group(0) @binding(2) var<storage, read_write> mask: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn attention_mask(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = flat_group(group, groups) * WORKGROUP + lane;
  if (i >= params.words) { return; }
  if (i < params.batch) { mask[i] = starts[i]; } else { mask[i] = documents[i - params.batch]; }
}
