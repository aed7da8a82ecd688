// Philox 4x32-10 (Salmon et al. 2011): random words as a function of a 128-bit counter and a 64-bit key. The same as engine/random.ts.
fn mul_wide(a: u32, b: u32) -> vec2u { // (high, low)
  let al = a & 0xffffu; let ah = a >> 16u;
  let bl = b & 0xffffu; let bh = b >> 16u;
  let low = al * bl;
  let mid = ah * bl + (low >> 16u);
  let mid2 = al * bh + (mid & 0xffffu);
  return vec2u(ah * bh + (mid >> 16u) + (mid2 >> 16u), (mid2 << 16u) | (low & 0xffffu));
}
fn philox(counter: vec4u, key: vec2u) -> vec4u {
  var c = counter;
  var k = key;
  for (var round = 0u; round < 10u; round++) {
    let p0 = mul_wide(0xd2511f53u, c.x);
    let p1 = mul_wide(0xcd9e8d57u, c.z);
    c = vec4u(p1.x ^ c.y ^ k.x, p1.y, p0.x ^ c.w ^ k.y, p0.y);
    k = k + vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}
// Words as numbers in [0, 1): their upper 24 bits.
fn unit_float(w: vec4u) -> vec4f { return vec4f(w >> vec4u(8u)) * (1.0 / 16777216.0); }
