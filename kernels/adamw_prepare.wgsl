// Begins a step t: state = (t, learning rate, 1 − β1^t, 1 − β2^t, factor of the gradients, 1 if the step is skipped, steps skipped so far, –).
// A step whose clip says "not finite" is skipped: t stays. β^t comes from t · log β, so that it is exact after a resume and 1 − β^t exact for
// small t. One invocation. Grid: 1.
const CLIP = true; // read `clip`: (factor, 1 if not finite)
struct Params {
  log_beta1: f32,
  log_beta2: f32,
}
@group(0) @binding(0) var<storage, read> clip: array<f32>;
@group(0) @binding(1) var<storage, read_write> state: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

// 1 − e^x for x ≤ 0.
fn complement(x: f32) -> f32 {
  let series = -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0))))));
  return select(1.0 - exp(max(x, -104.0)), series, x > -0.4);
}

@compute @workgroup_size(1)
fn adamw_prepare() {
  var factor = 1.0;
  var skip = 0.0;
  if (CLIP) {
    factor = clip[0];
    skip = clip[1];
  }
  let t = state[0] + 1.0 - skip;
  state[0] = t;
  state[2] = complement(t * params.log_beta1);
  state[3] = complement(t * params.log_beta2);
  state[4] = factor;
  state[5] = skip;
  state[6] += skip;
}
