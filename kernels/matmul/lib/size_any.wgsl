// The subgroup size is the device's only one, or does not matter.
