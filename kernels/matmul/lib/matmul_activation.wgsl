// Activations of the linear layer's epilogue and their slopes, by kind: 0 none, 1 gelu, 2 geluTanh, 3 silu, 4 relu.
//#use activations
fn activate(kind: u32, x: vec4f) -> vec4f {
  if (kind == 1u) { return gelu4(x); }
  if (kind == 2u) { return gelu_tanh4(x); }
  if (kind == 3u) { return silu4(x); }
  if (kind == 4u) { return max4(x, vec4f()); }
  return x;
}
fn activation_slope(kind: u32, x: vec4f) -> vec4f {
  if (kind == 1u) { return gelu_slope4(x); }
  if (kind == 2u) { return gelu_tanh_slope4(x); }
  if (kind == 3u) { return silu_slope4(x); }
  if (kind == 4u) { return select(vec4f(1.0), vec4f(), x <= vec4f()); }
  return vec4f(1.0);
}
