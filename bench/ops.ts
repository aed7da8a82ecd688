/** How fast is each op: every case of the test table at its largest small shape, and the ops of Janus-Pro-1B at the model's shapes. */
import { F, backward, isFloat, scope, tensor, zeroGradients } from "../index.ts";
import type { DType, Device, Tensor } from "../index.ts";
import { cases } from "../tests/cases.ts";
import { makeInput } from "../tests/harness.ts";
import { ratesOf, sampleGpu, sampleWall } from "./harness.ts";
import type { Ceilings, Rates, Sample } from "./harness.ts";

export interface BenchCase {
  readonly name: string;
  readonly op: string;
  readonly size: "small" | "1B";
  readonly inputs: (device: Device) => Tensor[];
  readonly run: (inputs: Tensor[]) => Tensor;
  /** False for ops without a gradient. */
  readonly gradient?: boolean;
}

export interface BenchResult {
  readonly name: string;
  readonly launches: number;
  readonly gpuMs: number | null;
  readonly wall: Sample;
  readonly rates: Rates;
}

const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** The largest row of each op of the test table. */
function smallCases(): BenchCase[] {
  const largest = new Map<string, (typeof cases)[number]>();
  for (const c of cases) {
    const size = (x: typeof c): number => x.inputs.reduce((sum, i) => sum + elements(i.shape), 0);
    const known = largest.get(c.op);
    if (!known || size(c) > size(known)) largest.set(c.op, c);
  }
  return [...largest.values()].map((c) => ({
    name: `${c.op} ${c.inputs.map((i) => `[${i.shape.join("×")}]${i.dtype && i.dtype !== "f32" ? i.dtype : ""}`).join(" ")}`,
    op: c.op,
    size: "small",
    inputs: (device) => c.inputs.map((input) => makeInput(input, device, 1)),
    run: c.run,
    gradient: c.gradient !== false && c.inputs.some((i) => isFloat(i.dtype ?? "f32") && !i.constant),
  }));
}

/** Shapes of Janus-Pro-1B: hidden 2048, MLP 5632, 16 heads of 128, vocabulary 102,400, 16,384 codes, SigLIP width 1024, VQ at 384 px. */
function modelCases(): BenchCase[] {
  const random =
    (shape: readonly number[], dtype: DType = "f32") =>
    (device: Device): Tensor =>
      F.uniform(shape, -1, 1, { device, dtype });
  const ids =
    (shape: readonly number[], below: number) =>
    (device: Device): Tensor =>
      tensor(
        Int32Array.from({ length: elements(shape) }, (_, i) => (i * 7919) % below),
        { shape, device },
      );
  const make = (
    op: string,
    note: string,
    inputs: readonly ((device: Device) => Tensor)[],
    run: (t: Tensor[]) => Tensor,
    gradient = true,
  ): BenchCase => ({
    name: `${op} ${note}`,
    op,
    size: "1B",
    inputs: (device) => inputs.map((i) => i(device)),
    run,
    gradient,
  });
  return [
    make("matmul", "2048³ f32", [random([2048, 2048]), random([2048, 2048])], ([a, b]) => F.matmul(a!, b!)),
    make("matmul", "1024³ f32", [random([1024, 1024]), random([1024, 1024])], ([a, b]) => F.matmul(a!, b!)),
    make("linear", "640×2048→5632 bf16 weight", [random([640, 2048]), random([5632, 2048], "bf16")], ([x, w]) =>
      F.linear(x!, w!),
    ),
    make("linear", "2×2048→5632 bf16 weight (decode)", [random([2, 2048]), random([5632, 2048], "bf16")], ([x, w]) =>
      F.linear(x!, w!),
    ),
    make("linear", "1×2048→5632 f32 (decode)", [random([1, 2048]), random([5632, 2048])], ([x, w]) => F.linear(x!, w!)),
    make(
      "linear",
      "1×2048→102400 bf16 lm_head (decode)",
      [random([1, 2048]), random([102400, 2048], "bf16")],
      ([x, w]) => F.linear(x!, w!),
    ),
    make(
      "attention",
      "causal B1 H16 T512 D128",
      [random([1, 16, 512, 128]), random([1, 16, 512, 128]), random([1, 16, 512, 128])],
      ([q, k, v]) => F.attention(q!, k!, v!, { causal: true }),
    ),
    make(
      "attention",
      "SigLIP B1 H16 T576 D64",
      [random([1, 16, 576, 64]), random([1, 16, 576, 64]), random([1, 16, 576, 64])],
      ([q, k, v]) => F.attention(q!, k!, v!),
    ),
    make(
      "attention",
      "VQ B1 H1 T576 D512",
      [random([1, 1, 576, 512]), random([1, 1, 576, 512]), random([1, 1, 576, 512])],
      ([q, k, v]) => F.attention(q!, k!, v!),
    ),
    make("rmsNorm", "1024×2048", [random([1024, 2048]), random([2048])], ([x, w]) => F.rmsNorm(x!, w!)),
    make("layerNorm", "1024×2048", [random([1024, 2048]), random([2048]), random([2048])], ([x, w, b]) =>
      F.layerNorm(x!, w!, b!),
    ),
    make("groupNorm", "swish 1×128×192×192", [random([1, 128, 192, 192]), random([128]), random([128])], ([x, w, b]) =>
      F.groupNorm(x!, 32, w!, b!, { swish: true }),
    ),
    make("softmax", "1024×1024", [random([1024, 1024])], ([x]) => F.softmax(x!)),
    make("swiglu", "640×5632", [random([640, 5632]), random([640, 5632])], ([g, u]) => F.swiglu(g!, u!)),
    make("gelu", "576×4096", [random([576, 4096])], ([x]) => F.gelu(x!)),
    make("rope", "1×16×640×128", [random([1, 16, 640, 128]), ids([640], 16384)], ([x, p]) => F.rope(x!, p!)),
    make(
      "conv2d",
      "3×3 128→128 64×64",
      [random([1, 128, 64, 64]), random([128, 128, 3, 3]), random([128])],
      ([x, w, b]) => F.conv2d(x!, w!, b!, { padding: 1 }),
    ),
    make(
      "conv2d",
      "3×3 stride 2 128→128 64×64",
      [random([1, 128, 64, 64]), random([128, 128, 3, 3]), random([128])],
      ([x, w, b]) => F.conv2d(x!, w!, b!, { stride: 2, padding: [0, 1, 1, 0] }),
    ),
    make(
      "conv2d",
      "16×16 stride 16 3→1024 384×384",
      [random([1, 3, 384, 384]), random([1024, 3, 16, 16]), random([1024])],
      ([x, w, b]) => F.conv2d(x!, w!, b!, { stride: 16 }),
    ),
    make("upsampleNearest2x", "1×128×96×96", [random([1, 128, 96, 96])], ([x]) => F.upsampleNearest2x(x!)),
    make(
      "codebookLookup",
      "576 of 16384×8",
      [random([576, 8]), random([16384, 8])],
      ([z, c]) => F.codebookLookup(z!, c!).indices,
      false,
    ),
    make(
      "embedding",
      "640 of 102400×2048 bf16",
      [random([102400, 2048], "bf16"), ids([640], 102400)],
      ([w, i]) => F.embedding(w!, i!),
      false,
    ),
    make("crossEntropy", "576×16384", [random([576, 16384]), ids([576], 16384)], ([x, t]) => F.crossEntropy(x!, t!)),
    make(
      "linearCrossEntropy",
      "64×2048→102400 bf16",
      [random([64, 2048]), random([102400, 2048], "bf16"), ids([64], 102400)],
      ([x, w, t]) => F.linearCrossEntropy(x!, w!, t!),
    ),
    make("sampleTokens", "5×16384", [random([5, 16384])], ([x]) => F.sampleTokens(x!, { temperature: 1 }), false),
    make("add", "1024×2048", [random([1024, 2048]), random([1024, 2048])], ([a, b]) => F.add(a!, b!)),
    make("sum", "1024×2048 over rows", [random([1024, 2048])], ([x]) => F.sum(x!, 0)),
  ];
}

export const benchCases = (): BenchCase[] => [...modelCases(), ...smallCases()];

/** Measures one case: forward, or with `withBackward` forward and backward together. */
export async function runBench(
  device: Device,
  row: BenchCase,
  seconds: number,
  ceilings: Ceilings,
  withBackward: boolean,
): Promise<BenchResult> {
  const inputs = row.inputs(device);
  const differentiate = withBackward && row.gradient !== false;
  if (differentiate) for (const t of inputs) if (isFloat(t.dtype)) t.requiresGrad = true;
  const step = (): void => {
    scope(() => {
      const y = row.run(inputs);
      if (differentiate) backward(y, F.ones(y.shape, { dtype: y.dtype, device }));
    });
    zeroGradients(inputs);
  };
  try {
    const gpu = device.capabilities.timestamps ? await sampleGpu(device, step, 5) : null;
    const wall = await sampleWall(
      row.name,
      () => {
        step();
        return device.sync();
      },
      seconds,
    );
    return {
      name: row.name + (differentiate ? " (forward and backward)" : ""),
      launches: gpu?.launches ?? 0,
      gpuMs: gpu?.medianMs ?? null,
      wall,
      rates: ratesOf(gpu, wall.medianMs, ceilings),
    };
  } finally {
    for (const t of inputs) t.dispose();
  }
}
