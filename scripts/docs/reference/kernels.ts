/** Ops and kernels: what the table of cases checks for each op, and what each kernel declares. */
import { declaredKernels } from "../../../engine/index.ts";
import type { DType } from "../../../engine/index.ts";
import * as F from "../../../kernels/index.ts";
import { families } from "../../../tests/cases.ts";
import { tolerance } from "../../../tests/harness.ts";
import type { Case } from "../../../tests/harness.ts";
import { code, page, table } from "./markdown.ts";

const shapeOf = (shape: readonly number[]): string => `[${shape.join(", ")}]`;
const unique = <T>(values: Iterable<T>): T[] => [...new Set(values)];

function rowOf(op: string, rows: readonly Case[]): string[] {
  const dtypes = unique(rows.flatMap((c) => c.inputs.map((input) => input.dtype ?? "f32")));
  const variants = unique(rows.flatMap((c) => c.variants ?? []).map(({ name }) => name));
  const largest = rows.reduce((a, b) => (sizeOf(b) > sizeOf(a) ? b : a));
  return [
    code(op),
    dtypes.join(", "),
    largest.inputs.map(({ shape }) => code(shapeOf(shape))).join(" "),
    rows.some((c) => hasGradient(c)) ? "yes" : "no",
    variants.join(", "),
    rows.every((c) => c.exact) ? "exact" : toleranceOf(rows, dtypes),
    String(rows.length),
  ];
}

const sizeOf = ({ inputs }: Case): number =>
  inputs.reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0);
const hasGradient = (c: Case): boolean =>
  c.gradient !== false &&
  c.inputs.some((input) => !input.constant && ["f32", "f16", "bf16"].includes(input.dtype ?? "f32"));

function toleranceOf(rows: readonly Case[], dtypes: readonly DType[]): string {
  const terms = Math.max(...rows.map((c) => c.terms ?? 1));
  const floats = dtypes.filter((dtype) => ["f32", "f16", "bf16"].includes(dtype));
  return floats.map((dtype) => code(`${dtype} ${tolerance("forward", [dtype], terms).toExponential(1)}`)).join(" ");
}

export function kernelsPage(): string {
  const sections = Object.entries(families).map(([family, cases]) => {
    const ops = unique((cases as readonly Case[]).map(({ op }) => op)).toSorted();
    const rows = ops.map((op) =>
      rowOf(
        op,
        (cases as readonly Case[]).filter((c) => c.op === op),
      ),
    );
    return `### ${family}\n\n${table(["op", "dtypes", "largest inputs", "gradient", "variants forced", "tolerance", "rows"], rows)}`;
  });
  const count = Object.values(families).reduce((sum, cases) => sum + cases.length, 0);
  const exported = Object.values(F).filter((value) => typeof value === "function").length;
  const kernels = declaredKernels()
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ name, bindings, params, libraries }) => [
      code(name),
      Object.entries(bindings)
        .map(([binding, access]) => `${binding} (${String(access)})`)
        .join(", "),
      Object.entries(params)
        .map(([param, type]) => `${param}: ${String(type)}`)
        .join(", "),
      libraries.map((library) => library.name).join(", "),
    ]);
  const body = `\`F\` exports ${exported} functions. The table of cases has ${count} rows; each is a forward pass against a reference in float64, and, if the op
has a gradient, a comparison of each gradient with numeric differentiation of that reference. Tolerances are relative L2
errors of the forward at the longest sum of the rows; gradients have twice as much.

## Ops

${sections.join("\n\n")}

## Kernels

What each WGSL kernel binds, which parameters it takes, and which libraries it uses. Dtypes are filled in at the launch, by
the slots of the libraries.

${table(["kernel", "bindings", "parameters", "libraries"], kernels)}`;
  return page("Ops and kernels", "the table of cases and the declarations of the kernels", body);
}
