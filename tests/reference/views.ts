/** References of views, copies and reductions. */
import { eachIndex, ref, sizeOf, stridesOf } from "../reference.ts";
import type { Ref } from "../reference.ts";

/** y[index] = x[source(index)], or `fill` if source gives null. */
export function gatherRef(
  x: Ref,
  shape: readonly number[],
  source: (index: readonly number[]) => readonly number[] | null,
  fill = 0,
): Ref {
  const strides = stridesOf(x.shape);
  const y = ref(shape);
  eachIndex(shape, (index, flat) => {
    const at = source(index);
    y.data[flat] = at ? x.data[at.reduce((sum, v, d) => sum + v * strides[d]!, 0)]! : fill;
  });
  return y;
}

export function catRef(parts: readonly Ref[], dim: number): Ref {
  const first = parts[0]!;
  const y = ref(
    first.shape.with(
      dim,
      parts.reduce((sum, p) => sum + p.shape[dim]!, 0),
    ),
  );
  const strides = stridesOf(y.shape);
  let start = 0;
  for (const p of parts) {
    eachIndex(p.shape, (index, flat) => {
      y.data[index.reduce((sum, v, d) => sum + (d === dim ? v + start : v) * strides[d]!, 0)] = p.data[flat]!;
    });
    start += p.shape[dim]!;
  }
  return y;
}

/** Reduces over `dims`; `fold` gets the values of each result in order of index. */
export function reduceRef(x: Ref, dims: readonly number[], keepdim: boolean, fold: (values: number[]) => number): Ref {
  const kept = x.shape.map((n, d) => (dims.includes(d) ? 1 : n));
  const strides = stridesOf(kept);
  const groups: number[][] = Array.from({ length: sizeOf(kept) }, () => []);
  eachIndex(x.shape, (index, flat) => {
    groups[index.reduce((sum, v, d) => sum + (dims.includes(d) ? 0 : v * strides[d]!), 0)]!.push(x.data[flat]!);
  });
  return ref(keepdim ? kept : x.shape.filter((_, d) => !dims.includes(d)), groups.map(fold));
}
