/**
 * Bad input, one row each: a typed error that names the op, says what came with its shapes, and what to do; and after each the device still
 * computes. What capture(), profile(), checkpoint() and declarations refuse is in their own files.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  AutogradError,
  ArgumentError,
  DTypeError,
  Device,
  DeviceError,
  DisposedError,
  F,
  Generator,
  KernelError,
  OutOfMemoryError,
  ShapeError,
  backward,
  checkTensors,
  empty,
  kernel,
  launch,
  noGrad,
  scope,
  tensor,
  tensorFromBytes,
} from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { mistakes, networks, t, wrong } from "../error_rows.ts";
import type { ErrorKind, ErrorRow } from "../error_rows.ts";
import { errorOf, useDevice } from "../gpu.ts";

const device = useDevice({ memoryBudget: 64 << 20 });
let other: Device;
let paper: Device;
beforeAll(async () => {
  other = await Device.create();
  paper = await Device.create({ backend: "null" });
});
afterAll(() => [other, paper].forEach((d) => d.destroy()));

const fits = kernel(
  "errors_test_fits",
  `struct Params { n: u32, }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;
//#use f32 as s
const SCALE = 2.0;
@compute @workgroup_size(1) fn errors_test_fits() { y[0] = x[0] * SCALE * f32(params.n) * hsum_s(vec4f()); }`,
  { x: "read", y: "write" },
  { n: "u32" },
  [...F.libraries.standard].filter(({ name }) => name !== "u8"),
);
const typo = kernel(
  "errors_test_typo",
  "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1)\nfn errors_test_typo() {\n  y[0] = sine(1.0);\n}",
  { y: "write" },
);
const greedy = kernel(
  "errors_test_greedy",
  "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(4096)\nfn errors_test_greedy() {\n  y[0] = 1.0;\n}",
  { y: "write" },
);
const unbound = kernel(
  "errors_test_unbound",
  "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@group(0) @binding(1) var<storage, read_write> z: array<f32>;\n@compute @workgroup_size(1)\nfn errors_test_unbound() {\n  y[0] = z[0];\n}",
  { y: "write" },
);

const gone = (): Tensor => {
  const x = t([2, 3]);
  x.dispose();
  return x;
};
const leaf = (shape: readonly number[]): Tensor => {
  const x = F.ones(shape);
  x.requiresGrad = true;
  return x;
};
const grad = (fn: (x: Tensor) => Tensor): void =>
  fn(leaf([2]))
    .sum()
    .backward();

const creation: ErrorRow[] = [
  ["a ragged array", ShapeError, ["tensor", "equal lengths", "[2]", "[1]"], () => tensor([[1, 2], [3]])],
  ["too few values", ShapeError, ["tensor", "got 4 and 3", "[2, 2]"], () => tensor([1, 2, 3], { shape: [2, 2] })],
  ["a negative size", ShapeError, ["empty", "[2, -1]", "whole numbers"], () => empty([2, -1])],
  ["a fractional size", ShapeError, ["[0.5]", "whole numbers"], () => F.zeros([0.5])],
  ["an unknown dtype", DTypeError, ['"f64"', "must be one of f32"], () => empty([1], { dtype: wrong("f64") })],
  ["a value beyond u8", ArgumentError, ["256", "index 1", "u8"], () => tensor([1, 256], { dtype: "u8" })],
  ["a fraction as i32", ArgumentError, ["0.5", "i32"], () => tensor([0.5], { dtype: "i32" })],
  [
    "bytes that do not fill the shape",
    ShapeError,
    ["tensorFromBytes", "got 6", "[2]", "8 bytes"],
    () => tensorFromBytes(new Uint8Array(6), [2], "f32"),
  ],
  ["arange with step 0", ArgumentError, ["arange", "step not 0", "and 0"], () => F.arange(0, 3, 0)],
  ["integers at random", DTypeError, ["randn", "i32"], () => F.randn([2], { dtype: "i32" })],
  ["a negative seed", ArgumentError, ["seed must be a whole number", "got -1"], () => new Generator(-1)],
  [
    "a fractional step of a generator",
    ArgumentError,
    ["setStep", "0.5"],
    () => {
      const generator = new Generator(1);
      try {
        generator.setStep(0.5);
      } finally {
        generator.dispose();
      }
    },
  ],
  [
    "a fill that does not fit",
    ArgumentError,
    ["full", "300", "u8", "0 to 255"],
    () => F.full([4], 300, { dtype: "u8" }),
  ],
  [
    "a fractional fill",
    ArgumentError,
    ["full", "0.5", "i32", "-2147483648 to 2147483647"],
    () => F.full([4], 0.5, { dtype: "i32" }),
  ],
  [
    "a negative fill of u32",
    ArgumentError,
    ["fillInto", "-1", "u32", "0 to 4294967295"],
    () => F.fillInto(t([4], "u32"), -1),
  ],
  [
    "a fill of an empty tensor that does not fit",
    ArgumentError,
    ["fillInto", "300", "u8"],
    () => F.fillInto(t([0], "u8"), 300),
  ],
  [
    "arange that starts beyond i32",
    ArgumentError,
    ["arange", "2147483648", "i32"],
    () => F.arange(2 ** 31, 2 ** 31 + 2),
  ],
  [
    "arange that ends beyond i32",
    ArgumentError,
    ["arange", "2147483648", "i32"],
    () => F.arange(2 ** 31 - 1, 2 ** 31 + 1),
  ],
  ["arange of u32 below 0", ArgumentError, ["arange", "-1", "u32"], () => F.arange(1, -2, -1, { dtype: "u32" })],
  ["arange of u8 beyond 255", ArgumentError, ["arange", "256", "u8"], () => F.arange(0, 257, 1, { dtype: "u8" })],
  [
    "arange of integers in halves",
    ArgumentError,
    ["arange", "0.5", "i32"],
    () => F.arange(0, 2, 0.5, { dtype: "i32" }),
  ],
  [
    "arange beyond f32",
    ArgumentError,
    ["arange", "1e+39", "f32"],
    () => F.arange(1e39, 1.5e39, 1e39, { dtype: "f32" }),
  ],
];

const lifetime: ErrorRow[] = [
  ["a disposed tensor in a unary op", DisposedError, ["exp", "[2, 3]", "disposed", "Keep it"], () => F.exp(gone())],
  ["a disposed tensor in a binary op", DisposedError, ["mul", "[2, 3]", "disposed"], () => F.mul(t([2, 3]), gone())],
  ["a disposed tensor in a view", DisposedError, ["reshape", "disposed"], () => gone().reshape([6])],
  ["a disposed tensor in cat", DisposedError, ["cat", "[2, 3]", "disposed"], () => F.cat([t([2, 3]), gone()])],
  ["a disposed tensor in matmul", DisposedError, ["matmul", "[2, 3]", "disposed"], () => F.matmul(gone(), t([3, 2]))],
  ["a disposed loss", DisposedError, ["disposed"], () => backward(gone())],
  [
    "a disposed tensor in a launch",
    DisposedError,
    ["errors_test_fits", '"x"', "disposed"],
    () => launch(fits, { buffers: { x: gone(), y: t([1]) }, params: { n: 1 }, grid: [1] }),
  ],
  [
    "tensors of two devices",
    DeviceError,
    ["add", "tensors must be on one device", "Move one"],
    () => F.add(t([1]), empty([1], { device: other })),
  ],
  [
    "a launch over two devices",
    DeviceError,
    ["errors_test_fits", 'got "y" on'],
    () => launch(fits, { buffers: { x: t([1]), y: empty([1], { device: other }) }, params: { n: 1 }, grid: [1] }),
  ],
  [
    "an allocation beyond the budget",
    OutOfMemoryError,
    ["80.0 MiB", "budget of 64.0 MiB", "Free tensors", "memoryBudget"],
    () => t([20 << 20]),
  ],
  ["an op's result beyond the budget", OutOfMemoryError, ["40.0 MiB", "budget", "Alive:"], () => F.exp(t([10 << 20]))],
  ["an asynchronous scope", ArgumentError, ["scope()", "synchronous", "Await outside"], () => scope(async () => 1)],
  ["an asynchronous noGrad", ArgumentError, ["noGrad()", "synchronous"], () => noGrad(async () => 1)],
  ["something else for a tensor", ArgumentError, ["exp", "must be a Tensor", "got 3"], () => F.exp(wrong(3))],
  ["no tensor at all", ArgumentError, ["cat", "at least one tensor"], () => F.cat([])],
  ["nothing to check", ArgumentError, ["op", "at least one tensor"], () => checkTensors("op", null)],
];

const autograd: ErrorRow[] = [
  [
    "backward twice",
    AutogradError,
    ["must not have been used before", "Run the forward again"],
    () => {
      const y = leaf([1]).square().sum();
      y.backward();
      y.backward();
    },
  ],
  [
    "backward of a constant",
    AutogradError,
    ["must depend on a tensor that requires a gradient"],
    () => F.ones([1]).backward(),
  ],
  ["backward after noGrad", AutogradError, ["noGrad"], () => noGrad(() => leaf([1]).square()).backward()],
  [
    "backward of many elements",
    ShapeError,
    ["backward", "[2]", "got none", "Pass one"],
    () => leaf([2]).square().backward(),
  ],
  [
    "a gradient of another shape",
    ShapeError,
    ["backward", "[3]", "must have the shape of the loss, [2]"],
    () => backward(leaf([2]).square(), t([3])),
  ],
  [
    "a saved tensor changed in place",
    AutogradError,
    ["exp", "changed in place", "Change a copy"],
    () => {
      const y = leaf([2]).exp();
      const loss = y.sum();
      F.fillInto(y, 0);
      loss.backward();
    },
  ],
  [
    "a gradient for integers",
    AutogradError,
    ["i32", "must be f32, f16 or bf16"],
    () => (t([1], "i32").requiresGrad = true),
  ],
  ["no gradient for a result", AutogradError, ["detach()"], () => (leaf([1]).square().requiresGrad = false)],
];

const elementwise: ErrorRow[] = [
  [
    "shapes that do not broadcast",
    ShapeError,
    ["add", "[2, 3]", "[4, 3]", "Make them equal"],
    () => F.add(t([2, 3]), t([4, 3])),
  ],
  ["integers where floats are due", DTypeError, ["exp", "i32", "Cast"], () => F.exp(t([1], "i32"))],
  ["an integer and a float", DTypeError, ["mul", "i32", "f32", "Cast"], () => F.mul(t([1], "i32"), t([1]))],
  ["a comparison of an integer and a float", DTypeError, ["lt", "u32", "Cast"], () => F.lt(t([1], "u32"), t([1]))],
  ["bounds the wrong way round", ArgumentError, ["clamp", "1 and 0"], () => F.clamp(t([1]), 1, 0)],
  ["addInto of another shape", ShapeError, ["addInto", "[3]", "[2]", "same shape"], () => F.addInto(t([2]), t([3]))],
  [
    "addInto of a tensor to itself",
    KernelError,
    ["must not read and write the same storage", "clone"],
    () => {
      const x = t([4]);
      F.addInto(x, x);
    },
  ],
  ["castInto that does not broadcast", ShapeError, ["castInto", "[3]", "[2]"], () => F.castInto(t([2]), t([3]))],
  ["castInto of more dimensions", ShapeError, ["castInto", "[2, 3]", "[3]"], () => F.castInto(t([3]), t([2, 3]))],
  [
    "copyInto of another dtype",
    ShapeError,
    ["copyInto", "i32", "must be equal"],
    () => F.copyInto(t([2]), t([2], "i32")),
  ],
  [
    "copyInto within a storage",
    ArgumentError,
    ["copyInto", "share a storage", "Clone"],
    () => {
      const x = t([4]);
      F.copyInto(x.slice(0, 0, 2), x.slice(0, 2, 4));
    },
  ],
  [
    "copyInto of half words",
    ShapeError,
    ["copyInto", "32-bit words", "even number"],
    () => F.copyInto(t([2, 3], "bf16"), t([2, 3], "bf16")),
  ],
];

const views: ErrorRow[] = [
  ["reshape to another size", ShapeError, ["reshape", "6 elements", "[4]"], () => t([2, 3]).reshape([4])],
  ["reshape with two unknowns", ShapeError, ["reshape", "[-1, -1]"], () => t([2, 3]).reshape([-1, -1])],
  ["permute that leaves one out", ShapeError, ["permute", "[0, 0]", "once"], () => t([2, 3]).permute([0, 0])],
  [
    "a dimension that is not there",
    ShapeError,
    ["transpose", "from -2 to 1", "rank 2", "got 2"],
    () => t([2, 3]).transpose(0, 2),
  ],
  ["squeeze of a long dimension", ShapeError, ["squeeze", "[2, 3]", "size 1"], () => t([2, 3]).squeeze(0)],
  ["expand of a long dimension", ShapeError, ["expand", "[2, 3]", "[4, 3]"], () => t([2, 3]).expand([4, 3])],
  ["select beyond the end", ShapeError, ["select", "3"], () => t([2, 3]).select(1, 3)],
  ["slice with step 0", ArgumentError, ["slice", "step ≥ 1", "and 0"], () => t([4]).slice(0, 0, 4, 0)],
  ["split that does not add up", ShapeError, ["split", "[1,1]", "dimension 0"], () => t([3]).split([1, 1])],
  ["chunk in no parts", ArgumentError, ["chunk", "number of chunks", "got 0"], () => t([3]).chunk(0)],
  ["cat of other shapes", ShapeError, ["cat", "[2, 3]", "[2, 4]"], () => F.cat([t([2, 3]), t([2, 4])], 0)],
  ["cat of other dtypes", ShapeError, ["cat", "f32", "bf16"], () => F.cat([t([2]), t([2], "bf16")])],
  [
    "pad with too many pairs",
    ShapeError,
    ["pad", "[2]"],
    () =>
      F.pad(t([2]), [
        [1, 1],
        [1, 1],
      ]),
  ],
  ["flatten backwards", ShapeError, ["flatten", "after"], () => t([2, 3]).flatten(1, 0)],
  ["a cast to nothing", DTypeError, ['"f8"', "must be one of"], () => t([2]).cast(wrong("f8"))],
  [
    "more dimensions than a strided op walks",
    ShapeError,
    ["at most 8", "contiguous"],
    () => {
      const x = t(Array(10).fill(2) as number[]);
      x.permute([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]).contiguous();
    },
  ],
];

const reductions: ErrorRow[] = [
  ["the mean of nothing", ShapeError, ["mean", "[0]", "must have elements"], () => t([0]).mean()],
  ["the maximum of nothing", ShapeError, ["max", "[2, 0]", "must have elements"], () => t([2, 0]).max(1)],
  ["argmax of nothing", ShapeError, ["argmax", "must have elements"], () => t([2, 0]).argmax()],
  ["a dimension twice", ShapeError, ["sum", "[0,-2]", "at most once"], () => t([2, 3]).sum([0, -2])],
  ["a dimension that is not there", ShapeError, ["sum", "got 5", "rank 2"], () => t([2, 3]).sum(5)],
];

const kernels: ErrorRow[] = [
  [
    "an unknown constant",
    KernelError,
    ["errors_test_fits", "got SKALE", "top-level const"],
    () => launch(fits, { buffers: { x: t([1]), y: t([1]) }, params: { n: 1 }, constants: { SKALE: 1 }, grid: [1] }),
  ],
  [
    "an unknown slot",
    KernelError,
    ["errors_test_fits", "got q", "must be among s"],
    () => launch(fits, { buffers: { x: t([1]), y: t([1]) }, params: { n: 1 }, use: { q: "f32" }, grid: [1] }),
  ],
  [
    "a dtype whose library the kernel does not have",
    KernelError,
    ["errors_test_fits", "dtype u8", "slot s"],
    () => launch(fits, { buffers: { x: t([1]), y: t([1]) }, params: { n: 1 }, use: { s: "u8" }, grid: [1] }),
  ],
  [
    "a missing binding",
    KernelError,
    ["errors_test_fits", "buffers must have x, y; got none for y"],
    () => launch(fits, { buffers: wrong({ x: t([1]) }), params: { n: 1 }, grid: [1] }),
  ],
  [
    "no buffers at all",
    KernelError,
    ["errors_test_fits", "buffers must have x, y; got none for x, y"],
    () => launch(fits, wrong({ params: { n: 1 }, grid: [1] })),
  ],
  [
    "a number for a buffer",
    KernelError,
    ["errors_test_fits", '"x" must be a tensor', "got number"],
    () => launch(fits, { buffers: wrong({ x: 3, y: t([1]) }), params: { n: 1 }, grid: [1] }),
  ],
  [
    "an unknown option of a launch",
    ArgumentError,
    ["errors_test_fits", "got uses", "Did you mean use?"],
    () => launch(fits, wrong({ buffers: { x: t([1]), y: t([1]) }, params: { n: 1 }, grid: [1], uses: {} })),
  ],
  ...[undefined, 1, [1.5], [-1], [1, 1, 1, 1]].map((grid): ErrorRow => [
    `a grid of ${JSON.stringify(grid)}`,
    KernelError,
    ["errors_test_fits", "grid must be one to three whole numbers"],
    () => launch(fits, { buffers: { x: t([1]), y: t([1]) }, params: { n: 1 }, grid: wrong(grid) }),
  ]),
  [
    "a missing parameter",
    KernelError,
    ["errors_test_fits", "got none for n"],
    () => launch(fits, { buffers: { x: t([1]), y: t([1]) }, grid: [1] }),
  ],
  [
    "a strided binding",
    KernelError,
    ["errors_test_fits", '"x"', "must be contiguous"],
    () => launch(fits, { buffers: { x: t([2, 3]).transpose(), y: t([1]) }, params: { n: 1 }, grid: [1] }),
  ],
  [
    "a window that starts anywhere",
    KernelError,
    ["byte 4", "multiple of", "contiguous"],
    () =>
      launch(fits, { buffers: { x: { of: t([64]), start: 1, elements: 1 }, y: t([1]) }, params: { n: 1 }, grid: [1] }),
  ],
  [
    "a grid beyond 65,535",
    KernelError,
    ["errors_test_fits", "65536", "grid1d"],
    () => launch(fits, { buffers: { x: t([1]), y: t([1]) }, params: { n: 1 }, grid: [65536] }),
  ],
  [
    "a storage both read and written",
    KernelError,
    ["errors_test_fits", "must not read and write", "clone"],
    () => {
      const x = t([4]);
      launch(fits, { buffers: { x, y: x }, params: { n: 1 }, grid: [1] });
    },
  ],
];

/** Those that show later, or reject. */
const later: readonly (readonly [
  name: string,
  kind: ErrorKind,
  mentions: readonly (string | RegExp)[],
  provoke: () => Promise<unknown>,
])[] = [
  [
    "a kernel with an unknown function shows its line",
    KernelError,
    ["errors_test_typo", "does not compile", "line 4", "> ", "y[0] = sine(1.0);"],
    async () => {
      scope(() => launch(typo, { buffers: { y: t([1]) }, grid: [1] }));
      await device().sync();
    },
  ],
  ["the same kernel again, compiled again", KernelError, ["errors_test_typo", "sine"], () => device().compile(typo)],
  [
    "a workgroup beyond the device",
    KernelError,
    ["errors_test_greedy", "does not compile", /4096|exceeds/],
    () => device().compile(greedy),
  ],
  [
    "a binding that the file has and the declaration has not",
    KernelError,
    ["errors_test_unbound", "does not compile", /bind/],
    () => device().compile(unbound),
  ],
  ["reading a disposed tensor", DisposedError, ["disposed"], () => gone().data()],
  [
    "one number of many",
    ShapeError,
    ["item", "[2]", "one element", "data()"],
    async () => {
      using x = t([2]);
      await x.item();
    },
  ],
  [
    "reading on the null device",
    DeviceError,
    ["null device", "Run on a GPU"],
    async () => {
      using x = empty([2], { device: paper });
      await x.data();
    },
  ],
  [
    "an unknown adapter",
    ArgumentError,
    ["must name one of the adapters", '"quantum"'],
    () => Device.create({ adapter: "quantum" }),
  ],
  [
    "an unknown limit",
    ArgumentError,
    ["got maxFun", "must be among"],
    () => Device.create({ limits: wrong({ maxFun: 1 }) }),
  ],
  [
    "reading from a destroyed device",
    DisposedError,
    ["destroyed"],
    async () => {
      const short = await Device.create();
      const x = empty([2], { device: short });
      short.destroy();
      await x.data();
    },
  ],
];

const say = (mentions: readonly (string | RegExp)[], error: Error): void => {
  for (const word of mentions)
    expect(error.message).toMatch(
      typeof word === "string" ? new RegExp(word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")) : word,
    );
  // A sentence for people, not a stack of objects.
  expect(error.message.length).toBeGreaterThan(15);
  expect(error.message).not.toMatch(/\[object|undefined|NaN/);
};

/** A small program over several kernels, forward and backward, that must still be right. */
async function stillComputes(): Promise<void> {
  const x = tensor([1, 2, 3, 4], { requiresGrad: true });
  const y = scope(() => F.cat([x.mul(x), x.add(1)]).sum());
  y.backward();
  expect(await y.item()).toBe(30 + 14);
  expect([...(await x.grad!.data())]).toEqual([3, 5, 7, 9]);
  y.dispose();
  x.dispose();
}

const groups = { creation, lifetime, autograd, elementwise, views, reductions, networks, mistakes, kernels };

describe.each(Object.entries(groups))("%s", (_, rows) => {
  it.each(rows)("%s", async (_name, kind, mentions, provoke) => {
    const error = await errorOf(() => scope(provoke));
    expect(error).toBeInstanceOf(kind);
    say(mentions, error);
    await stillComputes();
  });
});

describe("later", () => {
  it.each(later)("%s", async (_name, kind, mentions, provoke) => {
    const error = await errorOf(provoke);
    expect(error).toBeInstanceOf(kind);
    say(mentions, error);
    await stillComputes();
  });
});

it("the table has at least 60 rows, each with an error class of ours", () => {
  expect(Object.values(groups).flat().length + later.length).toBeGreaterThanOrEqual(60);
});

it("a gradient still flows", () => {
  scope(() => grad((x) => x.exp()));
});
