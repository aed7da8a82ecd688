// f32 as u32 of the same order (negative zero equal to zero), and back.
fn sortable(v: f32) -> u32 {
  let u = bitcast<u32>(select(v, 0.0, v == 0.0));
  return select(u | 0x80000000u, ~u, (u & 0x80000000u) != 0u);
}
fn unsortable(key: u32) -> f32 { return bitcast<f32>(select(~key, key & 0x7fffffffu, (key & 0x80000000u) != 0u)); }
