/** References of einsum, triangles, repetitions and pooling. */
import { eachIndex, ref, stridesOf } from "../reference.ts";
import type { Ref } from "../reference.ts";

/**
 * The sum over the labels that are not on the right of `equation` (letters alone); more than two operands are contracted from left to right. As
 * in PyTorch, an operand is first summed over labels that are long in it alone: (∑ a) · ∞ is no NaN where a has both signs.
 */
export function einsumRef(equation: string, inputs: readonly Ref[]): Ref {
  const [left, right] = equation.split("->") as [string, string];
  const terms = left.split(",");
  if (terms.length > 2) {
    const [a, b, ...others] = terms as [string, string, ...string[]];
    const later = new Set((right + others.join("")).split(""));
    const kept = [...new Set((a + b).split(""))].filter((label) => later.has(label)).join("");
    const first = einsumRef(`${a},${b}->${kept}`, inputs.slice(0, 2));
    return einsumRef(`${[kept, ...others].join(",")}->${right}`, [first, ...inputs.slice(2)]);
  }
  const sizeIn = (i: number, label: string): number => inputs[i]!.shape[terms[i]!.indexOf(label)] ?? 1;
  const alone = terms.map((term, i) => term.split("").filter((label) => terms.length === 2 && !right.includes(label) && sizeIn(i, label) > 1 && sizeIn(1 - i, label) === 1)); // prettier-ignore
  if (alone.some(({ length }) => length > 0)) {
    const kept = terms.map((term, i) => term.split("").filter((label) => !alone[i]!.includes(label)).join("")); // prettier-ignore
    return einsumRef(`${kept.join(",")}->${right}`, inputs.map((x, i) => einsumRef(`${terms[i]}->${kept[i]}`, [x]))); // prettier-ignore
  }
  const sizes = new Map<string, number>();
  terms.forEach((term, i) =>
    term.split("").forEach((label, d) => {
      if ((sizes.get(label) ?? 1) === 1) sizes.set(label, inputs[i]!.shape[d]!);
    }),
  );
  const labels = [...new Set((right + left.replaceAll(",", "")).split(""))];
  const out = ref(right.split("").map((label) => sizes.get(label)!));
  const place = (term: string, shape: readonly number[], at: readonly number[]): number => {
    const strides = stridesOf(shape);
    return term.split("").reduce((sum, l, d) => sum + (shape[d] === 1 ? 0 : at[labels.indexOf(l)]! * strides[d]!), 0);
  };
  eachIndex(
    labels.map((label) => sizes.get(label)!),
    (at) => {
      const product = inputs.reduce((p, x, i) => p * x.data[place(terms[i]!, x.shape, at)]!, 1);
      out.data[place(right, out.shape, at)]! += product;
    },
  );
  return out;
}

export function triangleRef(x: Ref, diagonal: number, isLower: boolean): Ref {
  const out = ref(x.shape);
  eachIndex(x.shape, (at, flat) => {
    const offset = at.at(-1)! - at.at(-2)!;
    if (isLower ? offset <= diagonal : offset >= diagonal) out.data[flat] = x.data[flat]!;
  });
  return out;
}

export function repeatRef(x: Ref, sizes: readonly number[]): Ref {
  const from = [...new Array<number>(sizes.length - x.shape.length).fill(1), ...x.shape];
  const out = ref(from.map((n, d) => n * sizes[d]!));
  const strides = stridesOf(from);
  eachIndex(out.shape, (at, flat) => {
    out.data[flat] = x.data[at.reduce((sum, v, d) => sum + (v % from[d]!) * strides[d]!, 0)]!;
  });
  return out;
}

export interface PoolRef {
  readonly kernel: readonly [number, number];
  readonly stride: readonly [number, number];
  readonly padding?: readonly [number, number];
  readonly dilation?: readonly [number, number];
  readonly ceilMode?: boolean;
  /** null: the maximum. */
  readonly countIncludePad: boolean | null;
}

export function poolRef(x: Ref, options: PoolRef): Ref {
  const { kernel, stride, padding = [0, 0], dilation = [1, 1], ceilMode = false, countIncludePad } = options;
  const plane = x.shape.slice(-2) as [number, number];
  const size = plane.map((n, i) => {
    const free = (n + 2 * padding[i]! - dilation[i]! * (kernel[i]! - 1) - 1) / stride[i]!;
    const count = (ceilMode ? Math.ceil(free) : Math.floor(free)) + 1;
    return ceilMode && (count - 1) * stride[i]! >= n + padding[i]! ? count - 1 : count;
  });
  const out = ref([...x.shape.slice(0, -2), ...size]);
  eachIndex(out.shape, (at, flat) => {
    const start = [0, 1].map((i) => at.at(i - 2)! * stride[i]! - padding[i]!) as [number, number];
    const base = stridesOf(x.shape).reduce((sum, s, d) => sum + (d < x.shape.length - 2 ? at[d]! * s : 0), 0);
    const values: number[] = [];
    let padded = 0;
    for (let j = 0; j < kernel[0]; j++)
      for (let k = 0; k < kernel[1]; k++) {
        const [r, c] = [start[0] + j * dilation[0], start[1] + k * dilation[1]];
        if (r < plane[0] + padding[0] && c < plane[1] + padding[1]) padded++;
        if (r >= 0 && r < plane[0] && c >= 0 && c < plane[1]) values.push(x.data[base + r * plane[1] + c]!);
      }
    const sum = values.reduce((a, b) => a + b, 0);
    out.data[flat] =
      countIncludePad === null
        ? values.reduce((a, b) => Math.max(a, b), -Infinity)
        : sum / (countIncludePad ? padded : values.length);
  });
  return out;
}
