/** A sample of rows of every op on devices that can do less: WebGPU's default limits, no optional features, bindings of a few KiB. */
import "../quick_compile.ts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DEFAULT_LIMITS, Device } from "../../index.ts";
import { cases } from "../cases.ts";
import { caseName, runCase } from "../harness.ts";
import type { Case } from "../harness.ts";
import { isLong } from "../long.ts";

const seed = Number(process.env["JANUS_TEST_SEED"] ?? 1);

/** `count` rows of each op, spread over its rows. */
function sample(rows: readonly Case[], count: number): Case[] {
  const byOp = new Map<string, Case[]>();
  for (const c of rows) byOp.set(c.op, [...(byOp.get(c.op) ?? []), c]);
  return [...byOp.values()].flatMap((all) => {
    const few = Math.min(count, all.length);
    return Array.from({ length: few }, (_, i) => all[Math.floor((i * all.length) / few)]!);
  });
}

const everyOp = sample(cases, isLong ? 2 : 1);
const windowed = sample(
  cases.filter((c) => c.windows),
  1,
);

const OPTIONAL = [
  "shader-f16",
  "subgroups",
  "subgroup-size-control",
  "timestamp-query",
  "chromium-experimental-subgroup-matrix",
];
const profiles = [
  ["the default limits and no optional feature", { limits: "default", without: OPTIONAL }, everyOp],
  [
    "bindings of 8 KiB on 256 bytes",
    { limits: { maxStorageBufferBindingSize: 8192, minStorageBufferOffsetAlignment: 256 } },
    windowed,
  ],
] as const;

describe.each(profiles)("%s", (_, options, rows) => {
  let device: Device;
  beforeAll(async () => {
    device = await Device.create({ poison: true, ...options });
  });
  afterAll(() => device.destroy());

  it("is what the device holds", () => {
    expect(device.limits).toMatchObject(options.limits === "default" ? DEFAULT_LIMITS : options.limits);
    if ("without" in options)
      expect(device.capabilities).toMatchObject({ f16: false, subgroups: null, timestamps: false });
  });

  it.each(rows.map((row) => [caseName(row), row] as const))("%s", async (name, row) => {
    const live = device.pool.stats.liveBytes;
    const { failures } = await runCase(row, device, seed);
    await device.sync();
    expect(failures, `${name}, seed ${seed}`).toEqual([]);
    expect(device.pool.stats.liveBytes).toBe(live);
  });
});
