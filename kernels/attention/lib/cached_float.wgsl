// Granule c of the key or value that begins at `at` of a cache of floats, whose storage is slot c.
fn key_T(at: u32, c: u32, width: u32) -> vec4f { return unpack_c(keys[at + c]); }
fn value_T(at: u32, c: u32, width: u32) -> vec4f { return unpack_c(values[at + c]); }
