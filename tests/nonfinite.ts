/**
 * NaN and infinities through an op: one value of one input is replaced, and every element of the result must be of the same kind (NaN, +∞, −∞,
 * finite) as that of the float64 reference, whose arithmetic is IEEE's, as PyTorch's is.
 */
import { isFloat, scope } from "../index.ts";
import type { Device, Tensor } from "../index.ts";
import { forceVariant } from "../kernels/core/variants.ts";
import { caseName, drawValues, upload } from "./harness.ts";
import type { Case } from "./harness.ts";
import { ref, sizeOf } from "./reference.ts";

export const SPECIAL = [NaN, Infinity, -Infinity] as const;
/** Position of the value: one element of the input, or all of them. */
export const PLACES = ["first", "middle", "last", "all"] as const;

/**
 * Ops in which a number that counts 0 may meet what is not finite, 0 · ∞ = NaN, or may be passed over: the padding of a convolution, the values
 * of masked keys within a tile. NaN is allowed there if the reference has a number.
 */
const maySpread = (c: Case): boolean => c.op === "conv2d" || (c.op === "attention" && Boolean(c.note));

/** The kind of a value, which must agree. */
export const kindOf = (v: number): string =>
  Number.isNaN(v) ? "NaN" : v === Infinity ? "+Inf" : v === -Infinity ? "-Inf" : "finite";

/** Elements that the inputs of a case may have in all: small rows show the same as large ones. */
const MAX_ELEMENTS = { short: 700, long: 6000 } as const;

/** The short form has one case of each op and combination of dtypes, forced variants in f32 alone, and fewer places of infinities; `npm run test:long` has all. */
export type Form = keyof typeof MAX_ELEMENTS;

/** In the long form: of each op, note and combination of dtypes the smallest and the largest of the small cases. Contiguous inputs alone; samplers have tests of their own. */
export function selectCases(cases: readonly Case[], form: Form): Case[] {
  const groups = new Map<string, Case[]>();
  for (const c of cases) {
    const sizes = c.inputs.map((i) => sizeOf(i.shape));
    const total = sizes.reduce((a, b) => a + b, 0);
    const isPlain = c.inputs.every((i) => !i.layout || i.layout === "contiguous");
    if (
      c.op === "sampleTokens" ||
      !isPlain ||
      sizes.includes(0) ||
      total > MAX_ELEMENTS[form] ||
      !c.inputs.some((i) => isFloat(i.dtype ?? "f32"))
    )
      continue;
    const key = `${c.op} ${form === "long" ? (c.note ?? "") : ""} ${c.inputs.map((i) => i.dtype ?? "f32").join(",")}`;
    groups.set(key, [...(groups.get(key) ?? []), c]);
  }
  return [...groups.values()].flatMap((group) => {
    const total = (c: Case): number => c.inputs.reduce((sum, i) => sum + sizeOf(i.shape), 0);
    const sorted = group.toSorted((a, b) => total(a) - total(b));
    return [...new Set(form === "long" ? [sorted[0]!, sorted.at(-1)!] : [sorted.at(-1)!])];
  });
}

function agrees(c: Case, expected: number, got: number): boolean {
  if (c.exact && Number.isFinite(expected)) return got === expected;
  return kindOf(expected) === kindOf(got) || (maySpread(c) && Number.isNaN(got));
}

function placed(values: Float64Array, place: (typeof PLACES)[number], special: number): Float64Array {
  if (place === "all") return values.map(() => special);
  const at = { first: 0, middle: values.length >> 1, last: values.length - 1 }[place];
  return values.with(at, special);
}

export interface SpecialResult {
  readonly checks: number;
  readonly failures: readonly string[];
}

/** One case with each special value in each place of each float input, in the default variant and the forced ones. */
export async function runSpecial(c: Case, device: Device, seed: number, form: Form): Promise<SpecialResult> {
  const values = drawValues(c, seed);
  const isPlain = c.inputs.every(({ dtype = "f32" }) => !isFloat(dtype) || dtype === "f32");
  const forces = [undefined, ...(form === "long" || isPlain ? (c.variants ?? []) : [])];
  const failures: string[] = [];
  let checks = 0;
  for (const [i, input] of c.inputs.entries()) {
    // The reference of quantize has the offset to the codes as an input of its own, in place of the codes.
    if (!isFloat(input.dtype ?? "f32") || input.isFinite || (c.op === "quantize" && i > 0)) continue;
    for (const special of SPECIAL) {
      const places = form === "short" && !Number.isNaN(special) ? (["middle"] as const) : PLACES;
      for (const place of values[i]!.length > 1 ? places : (["all"] as const)) {
        const changed = values.with(i, placed(values[i]!, place, special));
        const expected = c.reference(changed.map((v, k) => ref(c.inputs[k]!.shape, v))).data;
        for (const force of forces) {
          const tensors = c.inputs.map((inp, k) => upload(changed[k]!, inp, device));
          const run = (): Tensor => scope(() => c.run(tensors));
          const y = force ? forceVariant(force.family, force.name, run) : run();
          const got = await y.data();
          checks++;
          const at = expected.findIndex((v, k) => !agrees(c, v, got[k]!));
          if (at >= 0) {
            const where = `${caseName(c)} ${force ? `${force.family} ${force.name} ` : ""}with ${kindOf(special)} in input ${i}, ${place}`;
            failures.push(`${where}: element ${at} is ${got[at]}, reference ${expected[at]}`);
          }
          for (const t of [y, ...tensors]) t.dispose();
        }
      }
    }
  }
  return { checks, failures };
}
