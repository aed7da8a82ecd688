// tokens[r] = index of the highest score among best[r, :], the lowest index among equals. A row with a logit that is NaN or +Inf, or without
// any token, is not finite: it gives `mark` (token 0, or that with a flag). With HISTORY the token is also written into column position[0] of the
// row's history, unless it has fewer. One invocation a row.
// Grid: flat over ceil(rows / WORKGROUP), folded.
//#use grid
const WORKGROUP = 64u; // invocations
const HISTORY = false;
const NONE = 0xffffffffu; // an index: no token takes part
const NOT_FINITE = 0xfffffffeu; // an index: one of the logits is NaN or +Inf
struct Params {
  rows: u32,
  chunks: u32,
  mark: u32, // what a row that is not finite gives
  columns: u32, // of the history
}
@group(0) @binding(0) var<storage, read> best: array<vec2u>; // bits of the score, index
@group(0) @binding(1) var<storage, read> position: array<u32>;
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> history: array<u32>; // [rows, columns]
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP)
fn sample_combine(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = flat_group(group, groups) * WORKGROUP + lane;
  if (row >= params.rows) { return; }
  var score = -3.4028234e38;
  var index = NONE;
  var is_finite = true;
  for (var k = row * params.chunks; k < (row + 1u) * params.chunks; k++) {
    let b = best[k];
    let s = bitcast<f32>(b.x);
    if (b.y == NOT_FINITE) { is_finite = false; }
    if (b.y < NOT_FINITE && (index == NONE || s > score || (s == score && b.y < index))) {
      score = s;
      index = b.y;
    }
  }
  let token = select(params.mark, index, is_finite && index != NONE);
  tokens[row] = token;
  if (HISTORY && position[0] < params.columns) { history[row * params.columns + position[0]] = token; }
}
