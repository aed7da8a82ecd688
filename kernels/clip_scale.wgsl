// scale[0] = min(1, most / (norm + 1e-6)), scale[1] = 1 where the norm is not finite, else 0. One invocation. Grid: 1.
struct Params {
  most: f32,
}
@group(0) @binding(0) var<storage, read> norm: array<u32>; // bits of the norm
@group(0) @binding(1) var<storage, read_write> scale: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(1)
fn clip_scale() {
  let finite = (norm[0] & 0x7f800000u) != 0x7f800000u;
  let value = bitcast<f32>(select(0u, norm[0], finite));
  scale[0] = min(1.0, params.most / (value + 1e-6));
  scale[1] = select(1.0, 0.0, finite);
}
