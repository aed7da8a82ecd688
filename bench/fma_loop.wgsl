// The ceiling of arithmetic: chains of fused multiply-adds on registers, nothing else. 12 chains of scalars an invocation as 3 vec4 (more
// would spill on a CPU with 16 vector registers), ROUNDS · 4 steps each: 12 · 2 · 4 · ROUNDS FLOPs an invocation. Grid: [workgroups].
const WORKGROUP = 64u; // invocations
const ROUNDS = 256u;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(WORKGROUP)
fn fma_loop(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let m = x[lane & 3u].x;
  let c = x[(lane & 3u) + 4u].x;
  var a0 = vec4f(m, m + c, m - c, m * c);
  var a1 = a0 + 1.0;
  var a2 = a0 + 2.0;
  for (var i = 0u; i < ROUNDS; i++) {
    a0 = a0 * m + c; a1 = a1 * m + c; a2 = a2 * m + c;
    a0 = a0 * m + c; a1 = a1 * m + c; a2 = a2 * m + c;
    a0 = a0 * m + c; a1 = a1 * m + c; a2 = a2 * m + c;
    a0 = a0 * m + c; a1 = a1 * m + c; a2 = a2 * m + c;
  }
  y[group.x * WORKGROUP + lane] = a0 + a1 + a2;
}
