/** AdamW with moments of 8 bits: how far it is from f32, windows, copies and averages, its state dict, the trainer's setting. */
import "../quick_compile.ts";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Device, nn, tensor } from "../../index.ts";
import { created, device, seed, useDevices } from "../gpu.ts";
import { randomFrom } from "../random.ts";

useDevices();

/** One whose bindings hold 8,192 f32. */
let small: Device;
beforeAll(async () => {
  small = await Device.create({ poison: true, limits: { maxStorageBufferBindingSize: 2 ** 16, minStorageBufferOffsetAlignment: 256 } }); // prettier-ignore
});
afterAll(() => small.destroy());

const SIZE = 9001; // in two windows of the small device, the last block is not full
const STEPS = 40;

interface Run {
  readonly master: Float32Array;
  readonly bits: string;
  readonly optimizer: nn.AdamW;
  readonly dispose: () => void;
}

interface Settings {
  readonly dtype?: "f32" | "bf16";
  /** Orders of magnitude over which the gradients of a block differ. */
  readonly orders?: number;
}

/** Steps on gradients with a drift and noise. */
async function run(moments: "f32" | "int8", where: Device, { dtype = "f32", orders = 4 }: Settings = {}): Promise<Run> {
  const random = randomFrom(seed);
  const scales = Array.from({ length: SIZE }, () => 10 ** (-orders * random()));
  const p = tensor(Float32Array.from(scales, () => 0.5), { device: where, dtype }).keep(); // prettier-ignore
  const optimizer = new nn.AdamW([{ name: "p", tensor: p }], { lr: 1e-3, weightDecay: 0.01, moments, emaDecay: 0.9 });
  for (let step = 0; step < STEPS; step++) {
    p.grad = tensor(
      Float32Array.from(scales, (s, i) => s * (Math.sin(i) + 2 * random() - 1)),
      { device: where },
    ).keep();
    optimizer.step();
    p.grad.dispose();
    p.grad = null;
  }
  const state = optimizer.stateDict();
  const master = (await (state["p.master"] ?? p).data()) as Float32Array;
  const bytes = [await p.readBytes(), await optimizer.averages()["p"]!.readBytes(), await state["p.m"]!.readBytes()];
  const dispose = (): void => {
    optimizer.dispose();
    p.dispose();
  };
  return { master, bits: bytes.map((part) => Buffer.from(part).toString("base64")).join(), optimizer, dispose };
}

it.each([
  [1, 0.03],
  [4, 0.1],
])(
  "moves parameters as f32 moments do if gradients differ by %d orders of magnitude, up to %d of the way",
  async (orders, most) => {
    const [exact, rounded] = [await run("f32", device, { orders }), await run("int8", device, { orders })];
    const norm = (of: (i: number) => number): number => Math.hypot(...Array.from({ length: SIZE }, (_, i) => of(i)));
    const error = norm((i) => rounded.master[i]! - exact.master[i]!) / norm((i) => exact.master[i]! - 0.5);
    console.log(`${orders} orders: after ${STEPS} steps the difference is ${(100 * error).toFixed(2)} % of the way`);
    expect(error).toBeLessThan(most);
    expect(error).toBeGreaterThan(0);
    for (const one of [exact, rounded]) one.dispose();
  },
);

it("takes 2.03 bytes a parameter, and has the same bits in windows", async () => {
  const [exact, rounded, again] = [await run("f32", device), await run("int8", device), await run("int8", small)];
  expect(again.bits).toBe(rounded.bits);
  const bytes = (one: Run): number =>
    Object.entries(one.optimizer.stateDict()).reduce((sum, [name, { storage }]) => sum + (name.startsWith("p.") ? storage.bytes : 0), 0); // prettier-ignore
  expect(bytes(rounded) / SIZE).toBeLessThan(2.1);
  expect(bytes(exact) / SIZE).toBeGreaterThanOrEqual(8);
  for (const one of [exact, rounded, again]) one.dispose();
});

it("its state goes into another optimizer bit for bit, and not into one of f32", async () => {
  const one = await run("int8", device, { dtype: "bf16" });
  const p = tensor(new Float32Array(SIZE), { device, dtype: "bf16" }).keep();
  const other = new nn.AdamW([{ name: "p", tensor: p }], { moments: "int8" });
  await other.loadStateDict(one.optimizer.stateDict());
  for (const [name, t] of Object.entries(one.optimizer.stateDict()))
    expect(Buffer.compare(await t.readBytes(), await other.stateDict()[name]!.readBytes()), name).toBe(0);
  const plain = new nn.AdamW([{ name: "p", tensor: p }]);
  await expect(plain.loadStateDict(one.optimizer.stateDict())).rejects.toThrow(
    /"p.m" must be|must be one of this optimizer/,
  );
  p.grad = tensor(new Float32Array(SIZE).fill(NaN), { device }).keep();
  const before = await other.stateDict()["p.m"]!.readBytes();
  other.step();
  expect(Buffer.compare(before, await other.stateDict()["p.m"]!.readBytes())).toBe(0);
  expect(await created(device, () => other.step())).toEqual({ buffers: 0, bindGroups: 0, pipelines: 0 });
  p.grad.dispose();
  p.grad = null;
  expect(() => new nn.AdamW([p], { moments: "int4" as never })).toThrow(/moments must be "f32" or "int8"; got int4/);
  one.dispose();
  for (const o of [other, plain]) o.dispose();
  p.dispose();
});

it("without f32 masters, steps below the resolution of bf16 add up, by chance that the step and the element decide", async () => {
  const [lr, steps] = [2e-5, 100];
  const moved = async (
    where: Device,
  ): Promise<{ readonly shift: number; readonly bits: string; readonly keys: string[] }> => {
    const p = tensor(new Float32Array(SIZE).fill(1), { device: where, dtype: "bf16" }).keep();
    const optimizer = new nn.AdamW([{ name: "p", tensor: p }], { lr, moments: "int8", masters: "bf16" });
    p.grad = tensor(new Float32Array(SIZE).fill(0.1), { device: where }).keep();
    for (let step = 0; step < steps; step++) optimizer.step();
    const bits = Buffer.from(await p.readBytes()).toString("base64");
    const values = (await p.data()) as Float32Array;
    const keys = Object.keys(optimizer.stateDict());
    optimizer.dispose();
    p.grad.dispose();
    p.dispose();
    return { shift: values.reduce((sum, v) => sum + 1 - v, 0) / SIZE, bits, keys };
  };
  const [once, again] = [await moved(device), await moved(small)];
  expect(once.keys).toEqual(["state", "steps", "p.m"]);
  expect(Math.abs(once.shift / (lr * steps) - 1)).toBeLessThan(0.05);
  expect(again.bits).toBe(once.bits);
  expect(() => new nn.AdamW([tensor([1], { device })], { masters: "bf16" })).toThrow(/need moments "int8"/);
});
