/** What a launch looks up: its bind group and its pipeline. */
import { describe, expect, it } from "vitest";
import { BindGroups } from "../../engine/bind_groups.ts";
import { kernel } from "../../engine/index.ts";
import { nullCapabilities } from "../../engine/capabilities.ts";
import { Pipelines } from "../../engine/pipelines.ts";
import type { Launch } from "../../engine/types.ts";

const arena = {} as GPUBuffer;

/** A launch that binds buffers, each as [id, offset, size]. */
const launchOf = (pipeline: number, ...bound: (readonly [number, number, number])[]): Launch =>
  ({
    pipeline: { id: pipeline, layout: {} },
    bindings: bound.map(([, offset, size]) => ({ offset, size })),
    buffers: bound.map(([id]) => ({ id, gpu: {}, markBound: () => undefined })),
    params: null,
  }) as unknown as Launch;

describe("bind groups", () => {
  const make = (): BindGroups => new BindGroups({ createBindGroup: () => ({}) } as unknown as GPUDevice);

  it("are made once for equal launches, and one each for all others", () => {
    const groups = make();
    const launches = [
      launchOf(1, [1, 0, 16], [2, 0, 16]),
      launchOf(2, [1, 0, 16], [2, 0, 16]),
      launchOf(1, [2, 0, 16], [1, 0, 16]),
      launchOf(1, [1, 256, 16], [2, 0, 16]),
      launchOf(1, [1, 0, 32], [2, 0, 16]),
      launchOf(1, [1, 0, 16], [2, 16, 0]),
    ];
    const first = launches.map((launch) => groups.get(launch, arena));
    expect(new Set(first).size).toBe(launches.length);
    expect(launches.map((launch) => groups.get(launch, arena))).toEqual(first);
    expect(groups.get(launches[0]!, arena, "capture 1 1 ")).not.toBe(first[0]);
    expect(groups.created).toBe(launches.length + 1);
  });
  it("of launches with the same hash are kept apart", () => {
    const groups = make();
    const F = 0x01000193; // the hash is FNV-1a's, over numbers
    const before = (offset: number): number => Math.imul(Math.imul(Math.imul(1, F) ^ 1, F) ^ offset, F);
    const [first, second] = [launchOf(1, [1, 0, 16]), launchOf(1, [1, 256, before(0) ^ 16 ^ before(256)])];
    const found = [first, second].map((launch) => groups.get(launch, arena));
    expect(found[0]).not.toBe(found[1]);
    expect([second, first].map((launch) => groups.get(launch, arena))).toEqual([found[1], found[0]]);
    expect(groups.created).toBe(2);
  });
  it("of a capture that ended are dropped; the oldest are dropped when there are too many", () => {
    const groups = make();
    const launch = launchOf(1, [1, 0, 16]);
    const [own, captured] = [groups.get(launch, arena), groups.get(launch, arena, "capture 1 2 ")];
    groups.drop("capture 1 ");
    expect([groups.get(launch, arena) === own, groups.get(launch, arena, "capture 1 2 ") === captured]).toEqual([true, false]); // prettier-ignore
    for (let i = 0; i < 16384; i++) groups.get(launchOf(2, [i, 0, 16]), arena);
    const before = groups.created;
    groups.get(launchOf(2, [16383, 0, 16]), arena);
    expect(groups.created).toBe(before);
    groups.get(launch, arena);
    expect(groups.created).toBe(before + 1);
  });
});

describe("pipelines", () => {
  const target = kernel("launch_caches", "const N: u32 = 1u;\n@compute @workgroup_size(1) fn launch_caches() {}", {});
  const make = (): Pipelines => new Pipelines(null, nullCapabilities(), (error) => { throw error; }); // prettier-ignore

  it("are found by the values of their constants, whatever object holds them", () => {
    const pipelines = make();
    expect(pipelines.find(target, { N: 2 }, undefined)).toBeUndefined();
    const made = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11].map((N) => pipelines.compile(target, { N }));
    for (let round = 0; round < 3; round++)
      for (const [i, pipeline] of made.entries()) expect(pipelines.find(target, { N: i + 1 }, {})).toBe(pipeline);
    expect(pipelines.find(target, { N: 12 }, undefined)).toBeUndefined();
    expect(pipelines.find(target, undefined, undefined)).toBeUndefined();
  });
  it("are others if there are more or fewer constants", () => {
    const pipelines = make();
    const [none, one] = [pipelines.compile(target), pipelines.compile(target, { N: 3 })];
    for (let round = 0; round < 2; round++) {
      expect(pipelines.find(target, undefined, undefined)).toBe(none);
      expect(pipelines.find(target, { N: 3 }, undefined)).toBe(one);
    }
  });
});
