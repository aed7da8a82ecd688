/** Tensors beyond one binding of 128 MiB, which is all that software Vulkan and the default limits allow. */
import { describe, expect, it } from "vitest";
import { F, declaredKernels, elementBytes, launch, scope } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { errorOf, useDevice } from "../gpu.ts";

// Poison would upload hundreds of MiB for each tensor. The limit is held even if the GPU has more.
const device = useDevice({ poison: false, limits: { maxStorageBufferBindingSize: 134217728 } });

const ROWS = 6000;
const COLUMNS = 5996; // 143.9 MB as f32; odd rows of 16 bytes

/** Values of `t` at some rows: the first, the last, and those around each 128 MiB of its storage. */
async function probe(t: Tensor): Promise<[row: number, values: ArrayLike<number>][]> {
  const rows = t.shape[0]!;
  const perRow = t.size / rows;
  const edge = Math.floor(134217728 / elementBytes(t.dtype, perRow));
  const at = [...new Set([0, 1, rows >> 1, edge - 1, edge, edge + 1, rows - 1])].filter((r) => r >= 0 && r < rows);
  const out: [number, ArrayLike<number>][] = [];
  for (const r of at) {
    using row = t.slice(0, r, r + 1);
    out.push([r, await row.data()]);
  }
  return out;
}

async function expectRows(t: Tensor, value: (row: number, column: number) => number): Promise<void> {
  for (const [r, values] of await probe(t)) {
    for (let c = 0; c < values.length; c++)
      if (values[c] !== value(r, c)) expect.fail(`row ${r}, column ${c}: ${values[c]}, not ${value(r, c)}`);
  }
}

const counting = (): Tensor => scope(() => F.arange(ROWS * COLUMNS).reshape([ROWS, COLUMNS]));

describe("a tensor of 144 MB", () => {
  it("is larger than a binding", async () => {
    const kernel = declaredKernels().find((k) => k.name === "fill")!;
    const x = F.zeros([ROWS, COLUMNS]);
    expect(x.storage.bytes).toBeGreaterThan(device().limits.maxStorageBufferBindingSize);
    const error = await errorOf(() =>
      launch(kernel, { buffers: { y: x }, params: { granules: 1, value: 0 }, grid: [1] }),
    );
    expect(error.message).toMatch(
      /kernel "fill": a binding must have at most 134217728 bytes, the device's limit; got 143904000\. Launch it on windows/,
    );
    x.dispose();
  });

  it("arange, elementwise, and with a broadcast row", async () => {
    const x = counting();
    await expectRows(x, (r, c) => r * COLUMNS + c);
    const doubled = F.add(x, x);
    await expectRows(doubled, (r, c) => 2 * (r * COLUMNS + c));
    doubled.dispose();
    const row = F.arange(COLUMNS);
    const shifted = F.sub(x, row);
    await expectRows(shifted, (r) => r * COLUMNS);
    for (const t of [row, shifted, x]) t.dispose();
  });

  it("is copied, cast and transposed", async () => {
    const x = counting();
    const clone = x.clone();
    await expectRows(clone, (r, c) => r * COLUMNS + c);
    clone.dispose();
    const turned = scope(() => x.transpose().contiguous());
    expect(turned.shape).toEqual([COLUMNS, ROWS]);
    await expectRows(turned, (r, c) => c * COLUMNS + r);
    turned.dispose();
    const wide = scope(() =>
      x
        .slice(0, 0, 4)
        .reshape([4 * COLUMNS])
        .cast("f32"),
    );
    expect((await wide.data()).at(-1)).toBe(4 * COLUMNS - 1);
    for (const t of [wide, x]) t.dispose();
  });

  it("is reduced over everything, rows and columns", async () => {
    const x = F.full([ROWS, COLUMNS], 0.5);
    using total = x.sum();
    expect(await total.item()).toBe(0.5 * ROWS * COLUMNS);
    using rows = x.sum(1);
    expect(new Set(await rows.data())).toEqual(new Set([0.5 * COLUMNS]));
    using columns = x.sum(0);
    expect(new Set(await columns.data())).toEqual(new Set([0.5 * ROWS]));
    using spot = F.full([1, 1], 3);
    scope(() => F.castInto(x.slice(0, ROWS - 1).slice(1, 17, 18), spot));
    using largest = x.max();
    expect(await largest.item()).toBe(3);
    using where = scope(() => x.slice(0, ROWS - 2).argmax(1));
    expect([...(await where.data())]).toEqual([0, 17]);
    x.dispose();
  });

  it("takes parts and gives parts", async () => {
    const x = F.zeros([ROWS, COLUMNS], { dtype: "i32" });
    using band = scope(() => F.arange(3 * COLUMNS).reshape([3, COLUMNS]));
    scope(() => F.copyInto(x.slice(0, ROWS - 3), band));
    using seen = scope(() => x.slice(0, ROWS - 4).contiguous());
    expect([...(await seen.data())]).toEqual([...Array<number>(COLUMNS).fill(0), ...Array(3 * COLUMNS).keys()]);
    x.dispose();
  });

  it("has a gradient", async () => {
    const x = F.full([ROWS, COLUMNS], 2, { requiresGrad: true });
    using w = F.full([COLUMNS], 3, { requiresGrad: true });
    scope(() => F.mul(x, w).sum().backward());
    await expectRows(x.grad!, () => 3);
    expect(new Set(await w.grad!.data())).toEqual(new Set([2 * ROWS]));
    x.dispose();
  });
});

describe("a bf16 tensor of 70 million elements", () => {
  it("is computed on and cast", async () => {
    const x = F.full([70_001, 1000], 1.5, { dtype: "bf16" });
    const y = F.mul(x, 2);
    expect(y.dtype).toBe("bf16");
    await expectRows(y, () => 3);
    y.dispose();
    using total = x.sum();
    expect(await total.item()).toBe(105_001_504); // to the 8 that f32 counts in there
    x.dispose();
  });
});
