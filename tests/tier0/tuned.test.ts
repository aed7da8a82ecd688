/** Tables of measured variants: which one a device takes, what is refused, and when a variant counts as faster. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { bestOf, mergedVariants, tune } from "../../bench/tune.ts";
import type { Measured } from "../../bench/tune.ts";
import { FAMILIES, lockCache, variantsBefore } from "../../cli/tune.ts";
import { tableRows } from "../../bench/rows/table.ts";
import { ArgumentError, Device, DeviceError, empty, findTuned, scope, tunedFile } from "../../index.ts";
import { unknownChoices } from "../../kernels/families.ts";
import { observeVariants } from "../../kernels/core/variants.ts";
import { PROFILES } from "../null_runs.ts";

const infoOf = (description: string): GPUAdapterInfo =>
  ({ vendor: "acme", architecture: "a1", device: "Card A", description }) as GPUAdapterInfo;
const INFO = infoOf("driver 1.0");
const TABLE = { format: 1, adapter: { name: "Card A" }, variants: { matmul: { "f32·f32 ≤32×1×1": "tiled" } } };

const folder = mkdtempSync(join(tmpdir(), "tuned-"));
const file = join(folder, "janus-webgpu", tunedFile({ name: "Card A", driver: "driver 1.0" }));
const before = process.env["XDG_CACHE_HOME"];
beforeAll(() => {
  process.env["XDG_CACHE_HOME"] = folder;
  mkdirSync(join(file, ".."), { recursive: true });
});
afterEach(() => rmSync(file, { force: true, recursive: true }));
afterAll(() => {
  if (before === undefined) delete process.env["XDG_CACHE_HOME"];
  else process.env["XDG_CACHE_HOME"] = before;
  rmSync(folder, { recursive: true });
});

describe("the table of an adapter", () => {
  it("is that of the user's cache, for this adapter and driver only", () => {
    writeFileSync(file, JSON.stringify(TABLE));
    expect(findTuned(INFO)).toEqual({ from: file, table: TABLE });
    expect(findTuned(infoOf("driver 1.1"))).toBeNull();
  });
  it.each([
    ["{", "a text that is not JSON"],
    ["[]", "another format"],
    [JSON.stringify({ ...TABLE, format: 2 }), "another format"],
    [JSON.stringify({ format: 1, variants: {} }), "no adapter"],
    [JSON.stringify({ format: 1, adapter: {} }), "no variants"],
    [JSON.stringify({ ...TABLE, variants: { matmul: { a: 3 } } }), "something else than names of variants for matmul"],
  ])("is refused if it is none: %s", (text, got) => {
    writeFileSync(file, text);
    expect(() => findTuned(INFO)).toThrow(DeviceError);
    expect(() => findTuned(INFO)).toThrow(`got ${got}. Remove it, or run janus tune.`);
  });
  it("is refused if it cannot be read", () => {
    mkdirSync(file);
    expect(() => findTuned(INFO)).toThrow(DeviceError);
    expect(() => findTuned(INFO)).toThrow("must be readable");
  });
  it("is replaced by janus tune if it is none", async () => {
    const warn = vi.fn<(text: string) => void>();
    writeFileSync(file, JSON.stringify(TABLE));
    expect(await variantsBefore(INFO, { out: { warn } as never })).toEqual(TABLE.variants);
    expect(warn).not.toHaveBeenCalled();
    writeFileSync(file, "{");
    expect(await variantsBefore(INFO, { out: { warn } as never })).toEqual({});
    expect(warn).toHaveBeenCalledWith(expect.stringContaining("not JSON"));
  });
  it("is searched for by one process at a time", async () => {
    const context = { out: { warn: () => undefined } as never, signal: new AbortController().signal };
    const lock = await lockCache(folder, context);
    await expect(lockCache(folder, context)).rejects.toThrow(/another janus tune has this cache \(process .*wait until it ends/); // prettier-ignore
    await lock[Symbol.asyncDispose]();
    await (await lockCache(folder, context))[Symbol.asyncDispose]();
  });
  it("is used as an option, also by the null device", async () => {
    const device = await Device.create({ backend: "null", tuned: TABLE.variants });
    expect(device.capabilities.tuned).toEqual(TABLE.variants);
    device.destroy();
  });
  it("is refused as an option if it is none", async () => {
    const create = Device.create({ backend: "null", tuned: { matmul: "tiled" } as never });
    await expect(create).rejects.toThrow(ArgumentError);
  });
});

it("what a table names and no family has is listed", () => {
  const known = { matmul: { a: "tiled" }, softmax: { b: "subgroup" } };
  expect(unknownChoices(known)).toEqual([]);
  expect(unknownChoices({ ...known, matmul: { a: "tiled-256", b: "tiled-256" }, matmull: { c: "tiled" } })).toEqual([
    'matmul "tiled-256"',
    'family "matmull"',
  ]);
});

describe("a variant", () => {
  const times = (variant: string, ms: number[]) => ({ variant, ms: [99, ...ms] }); // the first call does not count
  it("replaces the preferred one if it is faster in nearly all rounds", () => {
    const own = times("own", [10, 11, 10, 12, 10]);
    expect(bestOf([own, times("other", [8, 8, 9, 8, 20])], "own")).toBe("other");
    expect(bestOf([own, times("other", [8, 8, 9, 20, 20])], "own")).toBe("own");
    expect(bestOf([own, times("other", [9.8, 10.8, 9.8, 11.8, 9.8])], "own"), "within noise").toBe("own");
    expect(bestOf([own, times("b", [8, 8, 8, 8, 8]), times("c", [7, 7, 7, 7, 7])], "own")).toBe("c");
  });
  it("stays if the preferred one could not be timed", () => {
    expect(bestOf([times("other", [1, 1])], "own")).toBe("own");
  });
});

describe("the result of a search", () => {
  const measured = (problem: string, best: string): Measured => ({
    family: "matmul",
    problem,
    row: "row",
    preferred: "own",
    best,
    candidates: [],
  });
  it("adds to what is known, and drops what is no longer faster", () => {
    const known = { matmul: { a: "old", b: "old" }, conv2d: { c: "old" } };
    expect(mergedVariants(known, [measured("a", "own"), measured("d", "new")])).toEqual({
      matmul: { b: "old", d: "new" },
      conv2d: { c: "old" },
    });
    expect(mergedVariants({ matmul: { a: "old" } }, [measured("a", "own")])).toEqual({});
  });
});

it("a search without time counts each class that it left once", async () => {
  const device = await Device.create({ backend: "null", capabilities: PROFILES["software Vulkan"]! });
  const row = tableRows().find(({ op, isPure }) => op === "softmax" && isPure !== false)!;
  const once = await tune(device, [row], { seconds: -1, seed: 1 });
  const twice = await tune(device, [row, row], { seconds: -1, seed: 1 });
  expect(once.left).toBeGreaterThan(0);
  expect(twice.left).toBe(once.left);
  device.destroy();
});

it("the command knows the families whose problems have several variants", async () => {
  const device = await Device.create({ backend: "null", capabilities: PROFILES["software Vulkan"]! });
  const found = new Set<string>();
  for (const row of tableRows().filter((r) => r.isPure !== false)) {
    const inputs = row.inputs.map(({ shape, dtype = "f32" }) => empty(shape, { dtype, device }).keep());
    const choices = observeVariants(() => scope(() => void row.run(inputs)));
    for (const { family, candidates } of choices) if (candidates.length > 1) found.add(family);
    for (const t of inputs) t.dispose();
  }
  expect([...found].sort()).toEqual([...FAMILIES].sort());
  device.destroy();
});
