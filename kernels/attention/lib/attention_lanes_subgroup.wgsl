// The lanes of a tile, if they are the LANES invocations of a subgroup that is the workgroup: the value of a lane; the largest and
// the sum over the lanes, for each component.
// The workgroup is the subgroup, so its tile comes from the workgroup's index alone: what is executed is the same in all lanes.
enable subgroups;
fn tile_of_T(group: u32, invocation: u32) -> u32 { return group; }
fn get_T(v: vec4f, lane: u32) -> vec4f { return subgroupShuffle(v, lane); }
fn get_one_T(v: f32, lane: u32) -> f32 { return subgroupShuffle(v, lane); }
fn get_id_T(v: u32, lane: u32) -> u32 { return subgroupShuffle(v, lane); }
