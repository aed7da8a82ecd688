// A cache of int8: words of four values, and words of two scales.
alias Pack_T = u32;
