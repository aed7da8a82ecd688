// Storage and arithmetic u32.
alias Pack_T = vec4u;
alias V4_T = vec4u;
alias S_T = u32;
alias Word_T = u32;
const W_T = 4u;
const PER_T = 1u;
fn unpack_T(p: Pack_T) -> V4_T { return p; }
fn pack_T(v: V4_T) -> Pack_T { return v; }
fn pick_T(word: Word_T, i: u32) -> S_T { return word; }
