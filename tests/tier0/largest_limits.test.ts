/** Bindings of every launch of the table of cases on a device with the largest limits that adapters have. */
import { expect, it } from "vitest";
import { nullCapabilities } from "../../index.ts";
import type { Limits } from "../../index.ts";
import { cases } from "../cases.ts";
import { caseName } from "../harness.ts";
import { launchesOf } from "../null_runs.ts";

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

it("no launch cuts a vector on a device with the largest limits", async () => {
  const cut = new Set<string>();
  const problems = await launchesOf(cases, nullCapabilities({ limits: LARGEST }), ({ bindings, pipeline }, row) => {
    for (const { offset, size, storage } of bindings)
      if (offset % GRANULE || size % GRANULE || offset + size > storage.bytes)
        cut.add(`${caseName(row)}: ${pipeline.kernel.name} binds ${size} bytes at ${offset}`);
  });
  expect(problems).toEqual([]);
  expect([...cut]).toEqual([]);
});
