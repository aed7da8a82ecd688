// Records the first of ids [count] that is not below `limit` (a negative one is large) in `faults`: (site, position, id, 1), unless a fault is
// there already. An id equal to `ignored` passes if `has_ignored` is 1. One workgroup walks all ids, so that the first one is found in every run.
const WORKGROUP = 64u; // invocations, a power of two
struct Params {
  count: u32, // in the window
  position: u32, // of its first id
  limit: u32,
  ignored: u32,
  has_ignored: u32,
  site: u32, // number of the check on its device
}
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> faults: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;
var<workgroup> first: array<u32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn check_ids(@builtin(local_invocation_index) lane: u32) {
  var found = 0xffffffffu;
  for (var i = lane; i < params.count; i += WORKGROUP) {
    let id = ids[i];
    let is_wrong = id >= params.limit && !(params.has_ignored != 0u && id == params.ignored);
    if (is_wrong) { found = min(found, i); }
  }
  first[lane] = found;
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { first[lane] = min(first[lane], first[lane + half]); }
  }
  if (lane == 0u) {
    let at = first[0];
    if (at != 0xffffffffu && faults[3] == 0u) {
      faults[0] = params.site;
      faults[1] = params.position + at;
      faults[2] = ids[at];
      faults[3] = 1u;
    }
  }
}
