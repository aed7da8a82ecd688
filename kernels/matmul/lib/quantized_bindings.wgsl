// Bindings of the kernels of quantised weights but a, b and the scales.
@group(0) @binding(3) var<storage, read> bias: array<Word_h>; // or the weight of the norm
@group(0) @binding(4) var<storage, read> residual: array<Pack_r>;
@group(0) @binding(5) var<storage, read_write> y: array<Pack_y>;
@group(0) @binding(6) var<uniform> params: Params;
