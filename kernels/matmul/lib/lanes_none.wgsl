// Values of neighbouring invocations, if each invocation holds them all itself.
fn share_T(v: vec4f, lane: u32) -> vec4f { return v; }
