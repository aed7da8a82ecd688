/** Cases of matmul, gemm and linear. */
import { F, noGrad } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { mapRef } from "../reference.ts";
import { linearRef, matmulRef, transposedRef } from "../reference/matmul.ts";
import type { activationRefs } from "../reference/matmul.ts";
import { siluRef } from "../reference/rows.ts";

const variants = (...names: readonly string[]): { family: string; name: string }[] =>
  names.map((name) => ({ family: "matmul", name }));
const names = ["naive", "register", "register-lanes", "tiled", "vector", "vector-lanes"] as const;
const all = variants(...names);
/** Each pipeline takes software Vulkan up to a second to compile: rows that cross dtypes and epilogues take turns with the variants. */
const turns = (row: number): { family: string; name: string }[] => variants(names[row % names.length]!);
const dtypes: readonly DType[] = ["f32", "f16", "bf16"];

interface Shapes {
  readonly a: readonly number[];
  readonly b: readonly number[];
  readonly note?: string;
  readonly windows?: boolean;
  /** All variants. */
  readonly full?: boolean;
  /** The largest tile. */
  readonly large?: boolean;
}

const shapes: Shapes[] = [
  { a: [1, 1], b: [1, 1] },
  { a: [16, 16], b: [16, 32], note: "aligned", full: true },
  { a: [3, 5], b: [5, 7] },
  { a: [33, 70], b: [70, 17], full: true },
  { a: [17, 64], b: [64, 36], note: "rows odd", windows: true, full: true },
  { a: [65, 16], b: [16, 132], note: "tile + 1", windows: true, full: true, large: true },
  { a: [130, 24], b: [24, 127], note: "two tiles", large: true },
  { a: [63, 12], b: [12, 60], note: "tile − 1" },
  { a: [4, 257], b: [257, 8] },
  { a: [8, 257], b: [257, 4], note: "terms odd", full: true },
  { a: [1, 260], b: [260, 12], note: "one row", windows: true },
  { a: [7, 40], b: [40, 20], note: "few rows", full: true },
  { a: [0, 4], b: [4, 3], note: "no rows" },
  { a: [4, 0], b: [0, 3], note: "no terms" },
  { a: [12], b: [12], note: "dot" },
  { a: [12], b: [12, 8], note: "row" },
  { a: [8, 12], b: [12], note: "column" },
  { a: [5], b: [2, 5, 3], note: "row, batches" },
  { a: [3, 20, 8], b: [3, 8, 12], note: "batches", windows: true, full: true },
  { a: [3, 20, 8], b: [8, 12], note: "shared b" },
  { a: [4, 8], b: [3, 8, 12], note: "shared a" },
  { a: [2, 1, 4, 8], b: [1, 3, 8, 4], note: "broadcast both" },
  { a: [2, 1, 2, 3, 4], b: [1, 2, 1, 4, 5], note: "three batch dimensions" },
  { a: [2, 3, 5], b: [2, 5, 3], note: "batches, odd" },
];

/** How the operands of A·B lie: as they are, or stored transposed and read through strides. */
const lies = [
  { note: "", a: false, b: false },
  { note: "A·Bᵗ", a: false, b: true },
  { note: "Aᵗ·B", a: true, b: false },
  { note: "Aᵗ·Bᵗ", a: true, b: true },
] as const;

const swap = (shape: readonly number[]): number[] => [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!];
const turn = (t: Tensor, yes: boolean): Tensor => (yes ? F.transpose(t, -1, -2) : t);

const plain = shapes.flatMap(({ a, b, note, windows, full, large }) =>
  dtypes.map((dtype): Case => ({
    op: "matmul",
    ...(note ? { note } : {}),
    inputs: [
      { shape: a, dtype },
      { shape: b, dtype },
    ],
    run: ([x, y]) => F.matmul(x!, y!),
    reference: ([x, y]) => matmulRef(x!, y!),
    terms: Math.max(a.at(-1)!, a.at(-2) ?? 1, b.at(-1)!),
    windows: windows ?? false,
    variants:
      dtype === "f32"
        ? [
            ...(full ? all : []),
            ...(large
              ? variants("register-lanes-panels", "register-lanes-tall", "tiled-128", "tiled-128x64", "tiled-64x128")
              : []),
          ]
        : [],
  })),
);

const transposed = lies.slice(1).flatMap((l, place) =>
  (
    [
      [[16, 32], [32, 64], "f32", "f32"],
      [[20, 24], [24, 36], "f32", "bf16"],
      [[68, 20], [20, 72], "f16", "f16"],
      [[8, 44], [44, 24], "bf16", "f32"],
      [[33, 7], [7, 5], "f32", "f32"],
      [[12, 19], [19, 8], "bf16", "bf16"],
      [[3, 12, 16], [3, 16, 8], "f32", "f32"],
      [[2, 5, 6], [2, 6, 3], "f16", "f16"],
    ] as const
  ).map(([a, b, da, db], row): Case => ({
    op: "matmul",
    note: l.note,
    inputs: [
      { shape: l.a ? swap(a) : a, dtype: da },
      { shape: l.b ? swap(b) : b, dtype: db },
    ],
    run: ([x, y]) => F.matmul(turn(x!, l.a), turn(y!, l.b)),
    reference: ([x, y]) => matmulRef(l.a ? transposedRef(x!) : x!, l.b ? transposedRef(y!) : y!),
    terms: 72,
    variants:
      row === 0 || row === 4
        ? [...all, ...variants("register-lanes-panels", "register-lanes-tall")]
        : [
            ...turns(row + place),
            ...turns(row + place + 3),
            ...(row === 1 || row === 2 || row === 5 ? variants("register-lanes-panels") : []),
          ],
  })),
);

/** Forward only: the gradient of a transposed view is a transposed view, and copying one of those needs more than the smallest binding. */
const transposedWindows = lies.slice(1).map((l): Case => ({
  op: "matmul",
  note: `${l.note} parts`,
  inputs: [{ shape: l.a ? [52, 68] : [68, 52] }, { shape: l.b ? [72, 52] : [52, 72], dtype: "f16" }],
  run: ([x, y]) => F.matmul(turn(x!, l.a), turn(y!, l.b)),
  reference: ([x, y]) => matmulRef(l.a ? transposedRef(x!) : x!, l.b ? transposedRef(y!) : y!),
  terms: 52,
  gradient: false,
  windows: true,
  variants: variants("register-lanes-panels"),
}));

const layouts = (["reversed", "inside"] as const).flatMap((layout) =>
  dtypes.map((dtype): Case => ({
    op: "matmul",
    inputs: [
      { shape: [9, 13], dtype, layout },
      { shape: [2, 13, 8], dtype, layout },
    ],
    run: ([x, y]) => F.matmul(x!, y!),
    reference: ([x, y]) => matmulRef(x!, y!),
    terms: 16,
    variants: turns(dtypes.indexOf(dtype)),
  })),
);

const asked = dtypes.map((dtype): Case => ({
  op: "matmul",
  note: `to ${dtype}`,
  inputs: [{ shape: [6, 8], dtype: "bf16" }, { shape: [8, 7] }],
  run: ([x, y]) => F.matmul(x!, y!, { dtype }),
  reference: ([x, y]) => matmulRef(x!, y!),
  terms: 8,
}));

type Activation = keyof typeof activationRefs;

interface LinearRow {
  readonly x: Input;
  readonly n: number;
  readonly weight?: DType;
  readonly bias?: boolean;
  readonly activation?: Activation;
  readonly residual?: boolean;
  readonly dtype?: DType;
  readonly windows?: boolean;
  readonly note?: string;
  readonly frozen?: boolean;
}

const linearRows: LinearRow[] = [
  { x: { shape: [4, 8] }, n: 12 },
  { x: { shape: [1, 1] }, n: 1, bias: true },
  { x: { shape: [8] }, n: 4, bias: true, activation: "silu", residual: true, note: "one vector" },
  { x: { shape: [3, 5] }, n: 7, bias: true },
  { x: { shape: [0, 8] }, n: 4, bias: true, note: "no rows" },
  { x: { shape: [2, 0] }, n: 4, bias: true, note: "no terms" },
  { x: { shape: [2, 9, 20] }, n: 24, bias: true, activation: "gelu", residual: true },
  { x: { shape: [2, 9, 20] }, n: 24, bias: true, activation: "geluTanh", residual: true },
  { x: { shape: [2, 9, 20] }, n: 24, activation: "silu" },
  { x: { shape: [2, 9, 20] }, n: 24, bias: true, activation: "relu", residual: true },
  { x: { shape: [70, 33] }, n: 17, bias: true, activation: "gelu", residual: true },
  { x: { shape: [17, 64] }, n: 128, bias: true, residual: true, windows: true },
  { x: { shape: [40, 32] }, n: 48, weight: "bf16", bias: true, activation: "silu", residual: true, windows: true },
  { x: { shape: [1, 260] }, n: 257, weight: "bf16", bias: true, activation: "geluTanh", windows: true },
  { x: { shape: [2, 36] }, n: 44, weight: "bf16", bias: true },
  { x: { shape: [2, 40] }, n: 45, weight: "bf16", bias: true, activation: "gelu", residual: true },
  { x: { shape: [1, 40] }, n: 44, weight: "bf16", activation: "relu", residual: true },
  { x: { shape: [3, 24] }, n: 33, bias: true, residual: true },
  { x: { shape: [5, 128] }, n: 36, weight: "f16", bias: true, residual: true, windows: true },
  {
    x: { shape: [20, 16], dtype: "bf16" },
    n: 32,
    weight: "bf16",
    bias: true,
    activation: "gelu",
    residual: true,
    windows: true,
  },
  { x: { shape: [6, 16], dtype: "f16" }, n: 12, weight: "f16", bias: true, activation: "silu", residual: true },
  { x: { shape: [6, 15], dtype: "f16" }, n: 13, weight: "f16", bias: true, activation: "gelu", residual: true },
  { x: { shape: [6, 16], dtype: "bf16" }, n: 10, weight: "bf16", bias: true, residual: true },
  { x: { shape: [6, 16], dtype: "bf16" }, n: 8, dtype: "bf16", bias: true, activation: "silu" },
  { x: { shape: [3, 6, 12], layout: "reversed" }, n: 8, bias: true, activation: "gelu", residual: true },
  { x: { shape: [3, 6, 12], layout: "inside", dtype: "bf16" }, n: 8, weight: "bf16", bias: true },
];

const linearCases = linearRows.flatMap((row, place): Case[] => {
  const { x, n, weight = "f32", bias = false, activation = null, residual = false } = row;
  const shape = [...x.shape.slice(0, -1), n];
  // Away from the kink of relu: |x · w| < 0.4 and |bias| ≥ 0.5.
  const kink = activation === "relu";
  const inputs: Input[] = [
    x,
    { shape: [n, x.shape.at(-1)!], dtype: weight, ...(kink ? { low: -0.02, high: 0.02 } : {}) },
  ];
  if (bias) inputs.push({ shape: [n], ...(kink ? { avoidZero: 0.5 } : {}) });
  const at = inputs.length;
  if (residual) inputs.push({ shape, dtype: x.dtype ?? "f32" });
  const options = { activation, ...(row.dtype ? { dtype: row.dtype } : {}) };
  const made: Case = {
    op: "linear",
    note: [row.note, activation, bias ? "bias" : "", residual ? "residual" : "", row.dtype ? `to ${row.dtype}` : ""]
      .filter(Boolean)
      .join(" "),
    inputs,
    run: (t) => F.linear(t[0]!, t[1]!, bias ? t[2]! : null, { ...options, residual: residual ? t[at]! : null }),
    reference: (r) => linearRef(r[0]!, r[1]!, bias ? r[2]! : null, activation, residual ? r[at]! : null),
    terms: Math.max(n, x.shape.at(-1)!, x.shape.at(-2) ?? 1),
    windows: row.windows ?? false,
    // Long rows use every invocation of a workgroup.
    variants: x.shape.at(-1)! >= 256 ? all : turns(place),
  };
  // The fused epilogue runs only if nothing is recorded.
  const fused: Case = { ...made, note: `fused ${made.note}`, run: (t) => noGrad(() => made.run(t)), gradient: false };
  return [made, fused];
});

/** out = 0.5 · A · B + out on windows of larger tensors, then through the epilogue. */
const gemmCases = (
  [
    [8, 12, 16],
    [5, 7, 9],
    [33, 20, 36],
    [16, 64, 24],
  ] as const
).flatMap(([m, k, n]) =>
  lies.map((l, place): Case => {
    const outer = ([rows, columns]: readonly [number, number]): Input => ({ shape: [rows + 8, columns + 12] });
    const [a, b] = [l.a ? ([k, m] as const) : ([m, k] as const), l.b ? ([n, k] as const) : ([k, n] as const)];
    return {
      op: "gemm",
      note: `${l.note} windows of`,
      inputs: [outer(a), outer(b), outer([m, n]), { shape: [n] }, { shape: [m, n] }],
      run: ([wideA, wideB, wideOut, bias, residual]) => {
        const inside = (t: Tensor, [rows, columns]: readonly [number, number]): Tensor =>
          t.strided([rows, columns], t.strides, t.offset + 4 * t.strides[0]! + 8);
        const out = F.clone(wideOut!);
        F.gemm({
          a: inside(wideA!, a),
          b: inside(wideB!, b),
          transA: l.a,
          transB: l.b,
          out: inside(out, [m, n]),
          accumulate: true,
          alpha: 0.5,
          bias: bias!,
          activation: "silu",
          residual: residual!,
        });
        return out;
      },
      reference: ([wideA, wideB, wideOut, bias, residual]) => {
        const cut = (x: typeof wideA, [rows, columns]: readonly [number, number]): NonNullable<typeof wideA> => {
          const width = x!.shape[1]!;
          return {
            shape: [rows, columns],
            data: Float64Array.from(
              { length: rows * columns },
              (_, i) => x!.data[(4 + Math.floor(i / columns)) * width + 8 + (i % columns)]!,
            ),
          };
        };
        const [left, right] = [cut(wideA, a), cut(wideB, b)];
        const y = matmulRef(l.a ? transposedRef(left) : left, l.b ? transposedRef(right) : right);
        const before = mapRef((sum, old, c) => 0.5 * sum + old + c, y, cut(wideOut, [m, n]), bias!);
        const after = mapRef((v, r) => siluRef(v) + r, before, residual!);
        const data = wideOut!.data.slice();
        for (let i = 0; i < m * n; i++) data[(4 + Math.floor(i / n)) * (n + 12) + 8 + (i % n)] = after.data[i]!;
        return { shape: wideOut!.shape, data };
      },
      terms: k,
      gradient: false,
      variants: [...turns(m + place), ...variants("register-lanes-panels", "register-lanes-tall")],
      windows: m === 33,
    };
  }),
);

/** Products that equal their transposes: a · aᵗ or aᵗ · a, and its square with a residual. */
const symmetricCases = (
  [
    [[3, 70, 36], false],
    [[2, 37, 21], false],
    [[20, 132], true],
    [[5, 3], false],
  ] as const
).map(([shape, transA]): Case => ({
  op: "gemm",
  note: `symmetric${transA ? " Aᵗ·A" : ""}`,
  inputs: [{ shape }],
  run: ([a]) => {
    const s = F.gemm({ a: a!, b: a!, transA, transB: !transA, alpha: 0.5, symmetric: true });
    return F.gemm({ a: s, b: s, transB: true, alpha: 0.25, residual: s, symmetric: true });
  },
  reference: ([a]) => {
    const [left, right] = transA ? [transposedRef(a!), a!] : [a!, transposedRef(a!)];
    const s = mapRef((v) => 0.5 * v, matmulRef(left, right));
    return mapRef((square, v) => 0.25 * square + v, matmulRef(s, s), s);
  },
  terms: 2 * Math.max(...shape),
  gradient: false,
  windows: shape[0] === 3,
  variants: [...all, ...variants("register-lanes-panels", "register-lanes-tall")],
}));

export const matmulCases: Case[] = [
  ...plain,
  ...transposed,
  ...transposedWindows,
  ...layouts,
  ...asked,
  ...linearCases,
  ...gemmCases,
  ...symmetricCases,
];
