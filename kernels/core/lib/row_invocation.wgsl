// A row to each invocation (LANES = 1): nothing is shared.
fn row_of_T(group: u32, invocation: u32) -> u32 { return group * WORKGROUP + invocation; }
fn row_sum_T(v: vec2f, lane: u32) -> vec2f { return v; }
fn row_max_T(v: f32, lane: u32) -> f32 { return v; }
