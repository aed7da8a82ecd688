// Index of a workgroup in a grid that grid1d() may have folded into two dimensions; guard the tail.
fn flat_group(group: vec3u, groups: vec3u) -> u32 { return group.y * groups.x + group.x; }
