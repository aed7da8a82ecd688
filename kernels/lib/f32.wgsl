// Storage f32. A granule (Pack) holds W = 4 elements; a word holds PER = 1.
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
// Sum and maximum over the elements of a granule.
fn hsum_T(v: V4_T) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn hmax_T(v: V4_T) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
