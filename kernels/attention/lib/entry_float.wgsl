// A granule as a cache of floats stores it; slot c is the storage. There are no scales.
const GROUP_T = 1u;
const SPAN_T = 1u;
const HAS_SCALES_T = false;
fn peak_T(v: vec4f) -> u32 { return 0u; }
fn scale_T(peak: u32) -> u32 { return 0u; }
fn pair_T(low: u32, high: u32) -> Pack_c { return Pack_c(); }
fn pack_T(v: vec4f, scale: u32) -> Pack_c { return pack_c(v); }
