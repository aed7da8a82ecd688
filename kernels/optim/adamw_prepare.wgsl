// Begins a step t: state = (t, learning rate, 1 − β1^t, 1 − β2^t, factor of the gradients, 1 if the step is skipped, steps skipped so far,
// norm of the gradients, scale of the losses, steps in a row that were not skipped, –, –). The factor is min(1, most / (norm + 1e-6)) / scale.
// A step whose norm, or one of whose `watched`, is not finite is skipped: t stays. β^t comes from t · log β, so that it is exact after a resume and 1 − β^t exact for
// small t; they are those of a parameter that has had a gradient in every step (others: adamw_count.wgsl). With SCALING the scale of the next step shrinks (not below 1) after a skipped step and grows after `interval` others in a row.
// One invocation. Grid: 1.
//#use complement
const NORM = true; // read `norm`
const SCALING = false;
struct Params {
  log_beta1: f32,
  log_beta2: f32,
  most: f32,
  growth: f32,
  backoff: f32,
  interval: f32,
  watched: u32, // how many
}
@group(0) @binding(0) var<storage, read> norm: array<u32>; // bits of the norm of scaled gradients
@group(0) @binding(1) var<storage, read> watched: array<u32>; // bits
@group(0) @binding(2) var<storage, read_write> state: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

fn is_finite(bits: u32) -> bool { return (bits & 0x7f800000u) != 0x7f800000u; }

@compute @workgroup_size(1)
fn adamw_prepare() {
  let scale = state[8];
  var factor = 1.0;
  var skip = 0.0;
  if (NORM) {
    let value = bitcast<f32>(select(0u, norm[0], is_finite(norm[0]))) / scale;
    factor = min(1.0, params.most / (value + 1e-6));
    if (!is_finite(norm[0])) { skip = 1.0; }
    state[7] = value;
  }
  for (var i = 0u; i < params.watched; i++) {
    if (!is_finite(watched[i])) { skip = 1.0; }
  }
  let t = state[0] + 1.0 - skip;
  state[0] = t;
  state[2] = complement(t * params.log_beta1);
  state[3] = complement(t * params.log_beta2);
  state[4] = factor / scale;
  state[5] = skip;
  state[6] += skip;
  if (SCALING) {
    let good = select(0.0, state[9] + 1.0, skip == 0.0);
    let grows = good >= params.interval;
    state[8] = select(select(scale, min(scale * params.growth, 1e38), grows), min(scale, max(1.0, scale * params.backoff)), skip != 0.0);
    state[9] = select(good, 0.0, grows);
  }
}
