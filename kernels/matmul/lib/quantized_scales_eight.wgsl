// Scales of quantised weights, eight f16 to a load: `at` and the groups of a column are multiples of eight.
@group(0) @binding(2) var<storage, read> scales: array<vec4u>;

// Scales of group k of four columns, whose first groups are `at`. For k in order: `held` has the words of eight groups, those of this one first.
fn next_scales_T(held: ptr<function, array<vec4u, 4>>, at: vec4u, k: u32) -> vec4f {
  if (k % 8u == 0u) {
    let load = (at + vec4u(k)) / 8u;
    let c0 = scales[load.x];
    let c1 = scales[load.y];
    let c2 = scales[load.z];
    let c3 = scales[load.w];
    for (var i = 0u; i < 4u; i++) { //#unroll
      (*held)[i] = vec4u(c0[i], c1[i], c2[i], c3[i]);
    }
  }
  let words = (*held)[0];
  if (k % 2u == 0u) { return vec4f(unpack2x16float(words.x).x, unpack2x16float(words.y).x, unpack2x16float(words.z).x, unpack2x16float(words.w).x); }
  for (var i = 0u; i < 3u; i++) { //#unroll
    (*held)[i] = (*held)[i + 1u];
  }
  return vec4f(unpack2x16float(words.x).y, unpack2x16float(words.y).y, unpack2x16float(words.z).y, unpack2x16float(words.w).y);
}
