// On a device with several subgroup sizes: LANES is asked for.
enable subgroup_size_control;
@subgroup_size(LANES)
