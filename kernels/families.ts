/** The families of kernels that have several variants, for tools: `janus tune`, `janus doctor`. */
import type { TunedVariants } from "../engine/index.ts";
import { DECODE_FAMILY } from "./attention/attention_decode.ts";
import { ATTENTION_FAMILY } from "./attention/variants.ts";
import { CONV_FAMILY } from "./conv/variants.ts";
import { ROW_FAMILIES } from "./core/rows.ts";
import { GROUP_NORM_FAMILY } from "./norm/group_norm.ts";
import { NORM_LINEAR_FAMILY } from "./norm/norm_linear.ts";
import { QUANTIZED_FAMILY } from "./matmul/quantized_variants.ts";
import { MATMUL_FAMILY } from "./matmul/variants.ts";

const FAMILIES = [
  MATMUL_FAMILY,
  QUANTIZED_FAMILY,
  NORM_LINEAR_FAMILY,
  ATTENTION_FAMILY,
  DECODE_FAMILY,
  CONV_FAMILY,
  GROUP_NORM_FAMILY,
  ...Object.values(ROW_FAMILIES),
];

/** Names of variants by family. */
export const VARIANT_NAMES: ReadonlyMap<string, readonly string[]> = new Map(
  FAMILIES.map(({ name, table }) => [name, table.map((variant) => variant.name)]),
);

/** What a table of measured choices names and this release does not have, each once, e.g. `matmul "tiled-256"`: such choices have no effect. */
export function unknownChoices(tuned: TunedVariants): string[] {
  const unknown = new Set<string>();
  for (const [family, choices] of Object.entries(tuned)) {
    const names = VARIANT_NAMES.get(family);
    if (!names) unknown.add(`family "${family}"`);
    else for (const name of Object.values(choices)) if (!names.includes(name)) unknown.add(`${family} "${name}"`);
  }
  return [...unknown];
}
