// The lanes of a tile, if one invocation holds it all (LANES = 1).
fn tile_of_T(group: u32, invocation: u32) -> u32 { return group * WORKGROUP + invocation; }
fn get_T(v: vec4f, lane: u32) -> vec4f { return v; }
fn get_one_T(v: f32, lane: u32) -> f32 { return v; }
fn get_id_T(v: u32, lane: u32) -> u32 { return v; }
