/** Elementwise launches that a capture joins: the same bits as the single launches, whatever is kept, freed, shared or written in place. */
import "../quick_compile.ts";
import { describe, expect, it } from "vitest";
import { F, Generator, capture, library, scope, tensor, withLabel } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { expression, map } from "../../kernels/core/map.ts";
import { useDevice } from "../gpu.ts";

const device = useDevice();

/** The same numbers in [0, 1) for the same seed. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const BINARY = [
  (a: Tensor, b: Tensor) => a.add(b),
  (a: Tensor, b: Tensor) => a.mul(b),
  (a: Tensor, b: Tensor) => F.maximum(a, b),
  (a: Tensor, b: Tensor) => a.sub(b),
] as const;
const UNARY = [
  (a: Tensor) => a.mul(0.7),
  (a: Tensor) => a.add(0.3),
  (a: Tensor) => a.silu(),
  (a: Tensor) => F.cast(a, "bf16"),
  (a: Tensor) => F.cast(a, "f16"),
  (a: Tensor) => F.cast(a, "f32"),
] as const;

/** A program of `length` ops over tensors that earlier ops made; some results are returned, others freed at once. */
function program(seed: number, inputs: readonly Tensor[], length: number): () => Tensor[] {
  return () => {
    const next = numbers(seed);
    const pick = <T>(from: readonly T[]): T => from[Math.floor(next() * from.length)]!;
    const known = [...inputs];
    const made: Tensor[] = [];
    for (let i = 0; i < length; i++) {
      const y = next() < 0.5 ? pick(BINARY)(pick(known), pick(known)) : pick(UNARY)(pick(known));
      if (known.includes(y)) continue; // a cast to the dtype that it has
      known.push(y);
      made.push(y);
      if (next() < 0.2) {
        const dead = pick(made);
        if (dead !== y && known.includes(dead)) {
          known.splice(known.indexOf(dead), 1);
          made.splice(made.indexOf(dead), 1);
          dead.dispose();
        }
      }
      if (next() < 0.1) F.addInto(inputs[0]!, inputs[1]!);
    }
    return made.filter(() => next() < 0.3).concat(made.at(-1)!);
  };
}

describe("fused elementwise launches", () => {
  it("make one launch of a chain", async () => {
    using x = tensor([1, 2, 3]);
    using c = await capture(
      () => {
        let y = x.mul(1);
        for (let i = 0; i < 50; i++) y = y.mul(1.01).add(0.1);
        return y;
      },
      { verify: true },
    );
    expect(c.launches).toHaveLength(1);
    expect(c.launches[0]!.bindings).toHaveLength(2); // values between live in registers
    c.result.dispose();
  });

  it("stay single with fuse: false", async () => {
    using x = tensor([1, 2, 3]);
    using c = await capture(() => x.mul(2).add(1), { fuse: false });
    expect(c.launches).toHaveLength(2);
    c.result.dispose();
  });

  it("round each value: no product and sum become one rounding", async () => {
    const generator = new Generator(3);
    using a = F.randn([4096], { generator });
    using b = F.randn([4096], { generator });
    using c = await capture(() => a.mul(b).add(a).sub(b), { verify: true });
    const [x, y] = [await a.data(), await b.data()];
    const expected = Float32Array.from(x, (v, i) => Math.fround(Math.fround(Math.fround(v * y[i]!) + v) - y[i]!));
    expect(c.launches).toHaveLength(1);
    c.replay();
    expect(await c.result.data()).toEqual(expected);
    c.result.dispose();
    generator.dispose();
  });

  it("stop at the number of buffers that a launch may bind", async () => {
    const limit = device().limits.maxStorageBuffersPerShaderStage;
    const inputs = Array.from({ length: 2 * limit }, (_, i) => tensor([i, i + 1]));
    const sum = (): Tensor => inputs.slice(1).reduce((y, x) => y.add(x), inputs[0]!.mul(1));
    using c = await capture(sum, { verify: true });
    expect(c.launches.length).toBeGreaterThan(1);
    expect(c.launches.length).toBeLessThan(5);
    expect(Math.max(...c.launches.map((l) => l.bindings.length))).toBeLessThanOrEqual(limit);
    expect([...(await c.result.data())]).toEqual([limit * (2 * limit - 1), limit * (2 * limit + 1)]);
    for (const t of [...inputs, c.result]) t.dispose();
  });

  it("join as many results that all live as a launch may bind", async () => {
    const each = Math.floor(device().limits.maxStorageBuffersPerShaderStage / 2); // an input and a result per op
    const inputs = Array.from({ length: 3 * each }, (_, i) => tensor([i, 1]));
    using c = await capture(() => inputs.map((x) => x.mul(2)), { verify: true });
    expect(c.launches).toHaveLength(3);
    for (const t of [...inputs, ...c.result]) t.dispose();
  });

  it("keep what is read after the chain, and write a freed value's buffer again", async () => {
    using x = F.arange(0, 64, 1);
    using c = await capture(
      () => {
        const a = x.add(1);
        const b = a.mul(2);
        a.dispose();
        const d = b.mul(b); // may lie where a lay
        const total = d.sum();
        return [b, d.sub(1), total];
      },
      { verify: true },
    );
    scope(() => F.castInto(x, F.full([64], 3)));
    c.replay();
    expect((await c.result[0]!.data())[5]).toBe(8);
    expect((await c.result[1]!.data())[63]).toBe(63);
    expect(await c.result[2]!.item()).toBe(64 * 64);
    for (const t of c.result) t.dispose();
  });

  it("carry NaN, infinities and numbers too large for 16 bits", async () => {
    for (const dtype of ["f16", "bf16"] as const satisfies DType[]) {
      using x = tensor([NaN, Infinity, -Infinity, 70000, -3e38, 1e-7, -0, 2049]);
      using c = await capture(() => F.cast(F.cast(x, dtype).mul(1.5).add(x.mul(-1)), dtype).mul(3), {
        verify: true,
      });
      expect(Number.isNaN((await c.result.data())[0])).toBe(true);
      c.result.dispose();
    }
  });

  it("read an operand that occurs twice as two: infinity minus itself is NaN", async () => {
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      using x = scope(() => F.cast(tensor([Infinity, NaN, 0, 3]), dtype));
      using c = await capture(() => [x.sub(x).add(1), x.div(x).add(1), F.cast(x.ne(x), dtype)], { verify: true });
      expect(c.launches).toHaveLength(1);
      expect([...(await c.result[0]!.data())]).toEqual([NaN, NaN, 1, 1]);
      for (const t of c.result) t.dispose();
    }
  });

  it("stop before a write to a buffer of which another range is read", async () => {
    using x = tensor(Float32Array.from({ length: 192 }, (_, i) => i));
    using a = x.slice(0, 0, 128);
    for (const start of [64, 128]) {
      using b = x.slice(0, start, start + 64);
      using c = await capture(
        () => {
          const y = b.mul(0.5).add(a.slice(0, 0, 64));
          F.castInto(a, F.cat([y, y], 0).mul(2));
          F.castInto(a.slice(0, 0, 64), y);
          return b.add(1);
        },
        { verify: true },
      );
      c.result.dispose();
    }
    using low = x.slice(0, 0, 64);
    using high = x.slice(0, 64, 128);
    using c = await capture(() => F.castInto(low, low.mul(0.5).add(high)), { verify: true });
    expect(c.launches).toHaveLength(2);
  });

  it("use the libraries of each formula, also after a reload", async () => {
    using x = tensor([1, 2]);
    const times = (factor: number) => {
      const scale = library("scale_for_tests", `fn scale_for_tests(v: vec4f) -> vec4f { return v * ${factor}.0; }`);
      return expression("scaled", "scale_for_tests(a)", scale);
    };
    const double = times(2);
    using before = await capture(() => map(double, [map(double, [x])]), { verify: true });
    const triple = times(3);
    using after = await capture(() => map(triple, [map(triple, [x])]), { verify: true });
    using both = await capture(() => map(triple, [map(double, [x])]), { verify: true });
    expect([...(await before.result.data())]).toEqual([4, 8]);
    expect([...(await after.result.data())]).toEqual([9, 18]);
    expect([...(await both.result.data())]).toEqual([6, 12]);
    for (const c of [before, after, both]) c.result.dispose();
  });

  it.each([1, 2, 3, 4, 5, 6])("equals the single launches in random programs (%i)", async (seed) => {
    const generator = new Generator(seed);
    const inputs = [0, 1, 2].map(() => F.randn([37], { generator }));
    using c = await capture(() => withLabel("random", program(seed, inputs, 14)), { verify: true });
    using single = await capture(program(seed, inputs, 14), { fuse: false });
    expect(c.launches.length).toBeLessThan(single.launches.length);
    for (const t of new Set([...inputs, ...c.result, ...single.result])) t.dispose();
    generator.dispose();
  });
});
