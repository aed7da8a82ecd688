/** Launches of the table of cases on devices with the smallest limits that WebGPU has and with the largest that adapters have. */
import { expect, it } from "vitest";
import { DEFAULT_LIMITS, nullCapabilities } from "../../index.ts";
import type { Capabilities, Launch, Limits, Pipeline } from "../../index.ts";
import { specialise } from "../../engine/kernel.ts";
import { cases } from "../cases.ts";
import { caseName } from "../harness.ts";
import { isLong } from "../long.ts";
import { launchesOf } from "../null_runs.ts";
import { reflect } from "../reflection.ts";

/** Kernels read vectors of four 32-bit values: WebGPU refuses a binding that cuts the last of them. */
const GRANULE = 16;

/** As AMD's Vulkan drivers have them: views may start at each fourth byte. */
const LARGEST: Limits = {
  maxStorageBufferBindingSize: 2 ** 32 - 4,
  maxBufferSize: 2 ** 32,
  maxStorageBuffersPerShaderStage: 64,
  minStorageBufferOffsetAlignment: 4,
  minUniformBufferOffsetAlignment: 4,
  maxComputeWorkgroupStorageSize: 65536,
  maxComputeInvocationsPerWorkgroup: 1024,
  maxComputeWorkgroupSizeX: 1024,
  maxComputeWorkgroupsPerDimension: 2 ** 32 - 1,
};

/** A binding in steps of 256 bytes and no larger than a few rows: ops go through their tensors in windows. */
const SMALL_BINDINGS: Limits = { ...DEFAULT_LIMITS, maxStorageBufferBindingSize: 8192 };

const EXTREMES: readonly [string, Capabilities][] = [
  ["the largest limits, no subgroups", nullCapabilities({ limits: LARGEST })],
  ["the smallest limits, no subgroups", nullCapabilities({ limits: DEFAULT_LIMITS })],
  ["the smallest limits, subgroups of 4", nullCapabilities({ limits: DEFAULT_LIMITS, subgroups: [4, 4] })],
  ["the largest limits, subgroups of 128", nullCapabilities({ limits: LARGEST, subgroups: [128, 128] })],
  [
    "the largest limits, subgroups of 4 to 128",
    nullCapabilities({ limits: LARGEST, subgroups: [4, 128], subgroupSizeControl: true }),
  ],
];

/** What a launch has that the device does not allow. */
function exceeds({ bindings, grid }: Launch, limits: Limits): string[] {
  const wrong: string[] = [];
  const alignment = limits.minStorageBufferOffsetAlignment;
  for (const { offset, size, storage } of bindings) {
    if (offset % alignment || offset % GRANULE || size % GRANULE || offset + size > storage.bytes)
      wrong.push(`binds ${size} bytes at ${offset}`);
    if (size > limits.maxStorageBufferBindingSize) wrong.push(`binds ${size} bytes`);
  }
  if (bindings.length > limits.maxStorageBuffersPerShaderStage) wrong.push(`binds ${bindings.length} buffers`);
  if (grid.some((n) => n > limits.maxComputeWorkgroupsPerDimension)) wrong.push(`has a grid of ${grid.join(" × ")}`);
  return wrong;
}

const reflections = new Map<string, ReturnType<typeof reflect>>();

/** A kernel's workgroup and its memory hang on its constants and on libraries other than those of dtypes, which it says by name. */
function reflectionOf({ kernel, constants, uses }: Pipeline): ReturnType<typeof reflect> {
  const libraries = Object.entries(uses).filter(([, use]) => typeof use !== "string");
  const key = JSON.stringify([kernel.name, constants, libraries]);
  const known = reflections.get(key) ?? reflect(specialise(kernel, constants, uses));
  reflections.set(key, known);
  return known;
}

/** The same of a compiled variant. */
function pipelineExceeds({ pipeline }: Launch, limits: Limits): string[] {
  const { workgroupSize, workgroupBytes } = reflectionOf(pipeline);
  const wrong: string[] = [];
  const [x, y, z] = workgroupSize;
  if (x * y * z > limits.maxComputeInvocationsPerWorkgroup || x > limits.maxComputeWorkgroupSizeX)
    wrong.push(`has workgroups of ${workgroupSize.join(" × ")}`);
  if (workgroupBytes > limits.maxComputeWorkgroupStorageSize)
    wrong.push(`takes ${workgroupBytes} bytes of workgroup memory`);
  return wrong;
}

/** In the short form the first device runs all rows (and nobody looks into its kernels), the others some, each others. */
const TURNS = 12;
const rowsFor = (device: number): typeof cases =>
  isLong || device === 0 ? cases : cases.filter((_, i) => i % TURNS === device);

it.each(EXTREMES.map(([name, capabilities], i) => [name, capabilities, i] as const))(
  "%s: no launch exceeds them or cuts a vector",
  async (_, capabilities, i) => {
    const wrong = new Set<string>();
    const seen = new Set<string>();
    const problems = await launchesOf(rowsFor(i), capabilities, (launch, row) => {
      const { pipeline } = launch;
      const lines = exceeds(launch, capabilities.limits);
      if ((isLong || i > 0) && !seen.has(pipeline.key)) lines.push(...pipelineExceeds(launch, capabilities.limits));
      seen.add(pipeline.key);
      for (const line of lines) wrong.add(`${caseName(row)}: ${pipeline.kernel.name} ${line}`);
    });
    expect(problems).toEqual([]);
    expect([...wrong]).toEqual([]);
  },
);

it("bindings of a few KiB: rows that may be cut into windows stay within them", async () => {
  const capabilities = nullCapabilities({ limits: SMALL_BINDINGS });
  const wrong = new Set<string>();
  const rows = rowsFor(5).filter((row) => row.windows);
  const problems = await launchesOf(rows, capabilities, (launch, row) => {
    for (const line of exceeds(launch, SMALL_BINDINGS))
      wrong.add(`${caseName(row)}: ${launch.pipeline.kernel.name} ${line}`);
  });
  expect(problems).toEqual([]);
  expect([...wrong]).toEqual([]);
});
