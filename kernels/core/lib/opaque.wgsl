// The value itself, behind an integer operation: a compiler that reassociates or contracts float arithmetic (Metal's fast math) moves no term
// across it. For differences and rests of rounding that must be computed in the order in which they stand. Only one pattern of NaN
// changes, to another NaN: that keeps the operation from being left out.
fn opaque(v: f32) -> f32 { return bitcast<f32>(min(bitcast<u32>(v), 0xfffffffeu)); }
fn opaque4(v: vec4f) -> vec4f { return bitcast<vec4f>(min(bitcast<vec4u>(v), vec4u(0xfffffffeu))); }
