// Storage f32 one element a granule: rows whose length is no multiple of 4. The lanes y, z, w of an unpacked granule are 0 and count nowhere.
//#use finite
alias Pack_T = f32;
alias V4_T = vec4f;
alias S_T = f32;
alias Word_T = f32;
const W_T = 1u;
const PER_T = 1u;
fn unpack_T(p: Pack_T) -> V4_T { return vec4f(p, 0.0, 0.0, 0.0); }
fn pack_T(v: V4_T) -> Pack_T { return v.x; }
fn pick_T(word: Word_T, i: u32) -> S_T { return word; }
fn hsum_T(v: V4_T) -> f32 { return v.x; }
fn hmax_T(v: V4_T) -> f32 { return v.x; }
fn is_nan_T(v: V4_T) -> vec4<bool> { return is_nan4(v); }
fn max_T(a: V4_T, b: V4_T) -> V4_T { return max4(a, b); }
fn min_T(a: V4_T, b: V4_T) -> V4_T { return min4(a, b); }
