/** References of the ops that pick elements by indices or masks. */
import { eachIndex, mapRef, ref, stridesOf } from "../reference.ts";
import type { Ref } from "../reference.ts";

/** Rows of weight [V, C] at ids [...]; zeros outside. */
export function embeddingRef(weight: Ref, ids: Ref): Ref {
  const [vocabulary, columns] = weight.shape as [number, number];
  const out = ref([...ids.shape, columns]);
  for (const [i, id] of ids.data.entries()) {
    if (id < 0 || id >= vocabulary) continue;
    for (let c = 0; c < columns; c++) out.data[i * columns + c] = weight.data[id * columns + c]!;
  }
  return out;
}

export function indexSelectRef(x: Ref, dim: number, index: Ref): Ref {
  const d = dim < 0 ? dim + x.shape.length : dim;
  const out = ref(x.shape.with(d, index.data.length));
  const strides = stridesOf(x.shape);
  eachIndex(out.shape, (at, flat) => {
    const i = index.data[at[d]!]!;
    if (i < 0 || i >= x.shape[d]!) return;
    out.data[flat] = x.data[at.reduce((sum, v, k) => sum + (k === d ? i : v) * strides[k]!, 0)]!;
  });
  return out;
}

export function pickRef(x: Ref, dim: number, index: Ref): Ref {
  const d = dim < 0 ? dim + x.shape.length : dim;
  const out = ref(index.shape);
  const strides = stridesOf(x.shape);
  eachIndex(out.shape, (at, flat) => {
    const i = index.data[flat]!;
    if (i < 0 || i >= x.shape[d]!) return;
    out.data[flat] = x.data[at.reduce((sum, v, k) => sum + (k === d ? i : v) * strides[k]!, 0)]!;
  });
  return out;
}

export const whereRef = (mask: Ref, a: Ref, b: Ref): Ref => mapRef((m, x, y) => (m !== 0 ? x : y), mask, a, b);
