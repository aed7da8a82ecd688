// Sine and cosine of angles counted in turns, in integers: 2^32 units are one turn. An angle is a whole position times a frequency held
// as a 64-bit fraction of a turn, modulo one turn, so that nothing is lost at large positions; what is left is at most an eighth of a
// turn off a quarter, for which short series are exact to f32. WGSL's own sin and cos promise 2^-11, and only up to half a turn.
//#use philox
// position · (f.x + f.y · 2^-32) modulo 2^32; position is an i32 in the bits of a u32.
fn turn(position: u32, f: vec2u) -> u32 {
  let carried = mul_wide(position, f.y).x;
  return position * f.x + carried - select(0u, f.y, position >= 0x80000000u);
}
struct SinCos {
  sin: vec4f,
  cos: vec4f,
}
fn sin_cos(turns: vec4u) -> SinCos {
  let quarter = (turns + vec4u(0x20000000u)) >> vec4u(30u);
  let r = vec4f(bitcast<vec4i>(turns - (quarter << vec4u(30u)))) * 1.4629180792671596e-9; // 2π / 2^32
  let z = r * r;
  let s = r + r * z * (-1.0 / 6.0 + z * (1.0 / 120.0 + z * (-1.0 / 5040.0 + z * (1.0 / 362880.0))));
  let c = 1.0 + z * (-0.5 + z * (1.0 / 24.0 + z * (-1.0 / 720.0 + z * (1.0 / 40320.0 - z * (1.0 / 3628800.0)))));
  let odd = (quarter & vec4u(1u)) == vec4u(1u);
  let sin = select(s, c, odd);
  let cos = select(c, s, odd);
  return SinCos(
    select(sin, -sin, (quarter & vec4u(2u)) == vec4u(2u)),
    select(cos, -cos, ((quarter + vec4u(1u)) & vec4u(2u)) == vec4u(2u)),
  );
}
