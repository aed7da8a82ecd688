// Which keys a query sees. `mask` holds first keys (one a row of the whole batch, with STARTS), then document ids [batch, keys] (with DOCUMENTS).
// The kinds of mask are bits of params.flags, so that they do not multiply the compiled variants.
const CAUSAL = 1u;
const STARTS = 2u;
const DOCUMENTS = 4u;
fn masked_by(kind: u32) -> bool { return (params.flags & kind) != 0u; }
// First key of row `b` of the window.
fn first_key(b: u32) -> u32 {
  if (!masked_by(STARTS)) { return 0u; }
  return min(params.keys, u32(max(bitcast<i32>(mask[params.first + b]), 0)));
}
// One past the last key of query i; with CAUSAL the last query sees all keys.
fn end_key(i: u32) -> u32 {
  if (!masked_by(CAUSAL)) { return params.keys; }
  return u32(clamp(i32(i) + 1 + i32(params.keys) - i32(params.queries), 0, i32(params.keys)));
}
// First query that sees key j.
fn first_query(j: u32) -> u32 {
  if (!masked_by(CAUSAL)) { return 0u; }
  return u32(max(0, i32(j) + i32(params.queries) - i32(params.keys)));
}
fn document(b: u32, t: u32) -> u32 {
  if (!masked_by(DOCUMENTS)) { return 0u; }
  return mask[select(0u, params.batch, masked_by(STARTS)) + (params.first + b) * params.keys + t];
}
