/** Ops of Janus-Pro-1B at its shapes: hidden 2048, MLP 5632, vocabulary 102,400, 16,384 codes, pictures of 384 pixels. For devices that hold them. */
import { F } from "../../index.ts";
import type { DType } from "../../index.ts";
import { groupNormRef } from "../../tests/reference/image.ts";
import { convParts, linearParts } from "./checks.ts";
import { exact, slices } from "./products.ts";
import type { Row } from "./row.ts";

const row = (rest: Omit<Row, "set">): Row => ({ ...rest, set: "1B" });

const linearRow = (note: string, m: number, k: number, n: number, dtype: DType): Row =>
  row({
    name: `linear ${m}×${k}→${n} ${dtype} (${note})`,
    op: "linear",
    inputs: [{ shape: [m, k] }, { shape: [n, k], dtype }],
    run: ([x, w]) => [F.linear(x!, w!)],
    check: ([x, w], [y], random) => linearParts(x!, w!, y!, random),
  });

export const modelShapeRows = (): Row[] => [
  linearRow("prefill, MLP", 640, 2048, 5632, "bf16"),
  linearRow("prefill, MLP back", 640, 5632, 2048, "bf16"),
  linearRow("decode, two rows", 2, 2048, 5632, "bf16"),
  linearRow("decode, text head", 1, 2048, 102_400, "bf16"),
  linearRow("decode, image head", 2, 2048, 16_384, "bf16"),
  row({
    name: "conv2d 3×3 128→128 192² f32 (VQ decoder)",
    op: "conv2d",
    inputs: [{ shape: [1, 128, 192, 192] }, { shape: [128, 128, 3, 3] }, { shape: [128] }],
    run: ([x, w, b]) => [F.conv2d(x!, w!, b!, { padding: 1 })],
    check: (inputs, [y], random) => convParts(inputs, y!, { padding: [1, 1, 1, 1] }, random),
  }),
  row({
    name: "conv2d 16×16 stride 16 3→1024 384² f32 (vision patches)",
    op: "conv2d",
    inputs: [{ shape: [1, 3, 384, 384] }, { shape: [1024, 3, 16, 16] }, { shape: [1024] }],
    run: ([x, w, b]) => [F.conv2d(x!, w!, b!, { stride: 16 })],
    check: (inputs, [y], random) => convParts(inputs, y!, { stride: 16, padding: [0, 0, 0, 0] }, random),
  }),
  row({
    name: "groupNorm swish 1×128×192×192 f32 (VQ decoder)",
    op: "groupNorm",
    inputs: [{ shape: [1, 128, 192, 192] }, { shape: [128] }, { shape: [128] }],
    run: ([x, w, b]) => [F.groupNorm(x!, 32, w!, b!, { eps: 1e-6, swish: true })],
    check: ([x, w, b], [y]) => [
      {
        name: "result",
        got: y!.data,
        expected: groupNormRef(exact(x!), exact(w!), exact(b!), 32, 1e-6, true).data,
        terms: 4 * 192 * 192,
      },
    ],
  }),
  row({
    name: "embedding 640 of 102400×2048 bf16",
    op: "embedding",
    inputs: [
      { shape: [102_400, 2048], dtype: "bf16" },
      { shape: [640], dtype: "i32", below: 102_400 },
    ],
    run: ([w, i]) => [F.embedding(w!, i!)],
    check: ([w, i], [y]) => [{ name: "result", got: y!.data, expected: slices(w!, [...i!.data]).data, terms: 1 }],
  }),
];
