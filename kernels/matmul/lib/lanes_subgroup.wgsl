// Values of neighbouring invocations, broadcast within the subgroup.
enable subgroups;
fn share_T(v: vec4f, lane: u32) -> vec4f { return subgroupShuffle(v, lane); }
