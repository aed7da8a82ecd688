// Storage f32. A granule (Pack) holds W = 4 elements; a word holds PER = 1.
//#use finite
alias Pack_T = vec4f;
alias V4_T = vec4f;
alias S_T = f32;
alias Word_T = f32;
const W_T = 4u;
const PER_T = 1u;
fn unpack_T(p: Pack_T) -> V4_T { return p; }
fn pack_T(v: V4_T) -> Pack_T { return v; }
// Element i of the tensor out of its word (word i / PER).
fn pick_T(word: Word_T, i: u32) -> S_T { return word; }
// Sum and maximum over the elements of a granule. Of all but hmax it holds that NaN comes out if it goes in; hmax may drop it.
fn hsum_T(v: V4_T) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn hmax_T(v: V4_T) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn is_nan_T(v: V4_T) -> vec4<bool> { return is_nan4(v); }
fn max_T(a: V4_T, b: V4_T) -> V4_T { return max4(a, b); }
fn min_T(a: V4_T, b: V4_T) -> V4_T { return min4(a, b); }
