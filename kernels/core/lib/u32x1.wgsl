// A 32-bit word by itself, where library u32 has four.
alias Pack_T = u32;
