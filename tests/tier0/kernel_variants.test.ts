/**
 * Every kernel as it is launched: each variant that a row of the table of cases launches, under the capabilities of a plain device, of
 * software Vulkan and of a large GPU, compiles on Dawn's null back end, which has every feature and needs no driver; and the race detector
 * finds nothing in those with workgroup memory.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { Device, F, declaredKernels, nn, specialise } from "../../index.ts";
import type { Kernel, Launch, Pipeline } from "../../index.ts";
import { requestGPU } from "../../engine/platform.ts";
import { cases } from "../cases.ts";
import { isLong } from "../long.ts";
import { PROFILES, launchesOf } from "../null_runs.ts";
import { SUBGROUPS_ONLY, races, usesSubgroups } from "../reflection.ts";

const kernels = declaredKernels();

const MATRICES = "the detector knows no subgroup matrices, whose loads and stores are those that barriers part";
/** Kernels with workgroup memory that the race detector cannot run, and why. */
const UNRACED: Readonly<Record<string, string>> = {
  attention_subgroup_matrix: MATRICES,
  attention_subgroup_matrix_key: MATRICES,
  attention_subgroup_matrix_query: MATRICES,
  conv2d_subgroup_matrix: MATRICES,
  sample_histogram:
    "its workgroup memory is atomics alone, in which the detector sees no races, with barriers or without",
  matmul_subgroup_matrix: MATRICES,
};

/** Bindings that no launch of the table reads: a word stands in their place, which does not count for the choice of a launch. */
const FILLERS: Readonly<Record<string, string>> = { sample_select: "settings" };

/** Launches of each kernel in which races are looked for. */
const RACED_EACH = isLong ? 2 : 1;

/** Per profile: its pipelines by key, and what went wrong. */
const runs = new Map<string, { pipelines: Map<string, Pipeline>; problems: string[] }>();
/** For races, one launch for each kernel and set of constants: the one whose buffers are nearest to 2 KiB, more than one tile. */
const chosen = new Map<string, { launch: Launch; bytes: number }>();
let gpu: GPUDevice;

beforeAll(async () => {
  const adapter = await (await requestGPU("null")).requestAdapter();
  gpu = await adapter!.requestDevice({ requiredFeatures: [...adapter!.features] as GPUFeatureName[] });
  for (const [profile, capabilities] of Object.entries(PROFILES)) {
    const pipelines = new Map<string, Pipeline>();
    const problems = await launchesOf(cases, capabilities, (launch) => {
      pipelines.set(launch.pipeline.key, launch.pipeline);
      choose(launch);
    });
    runs.set(profile, { pipelines, problems });
  }
  await optimizerStep();
});

/** A step of an optimizer whose kernel has workgroup memory: rows of cases have none. */
async function optimizerStep(): Promise<void> {
  const device = await Device.create({ backend: "null" });
  device.onLaunch(choose);
  const parameter = F.zeros([4096], { device }).keep();
  const optimizer = new nn.AdamW([parameter], { moments: "int8" });
  parameter.grad = F.zeros([4096], { device }).keep();
  optimizer.step();
  device.destroy();
}

function choose(launch: Launch): void {
  const { kernel, constants } = launch.pipeline;
  const key = `${kernel.name} ${JSON.stringify(constants)}`;
  const names = Object.keys(kernel.bindings);
  const bytes = launch.bindings.reduce((sum, b, i) => (FILLERS[kernel.name] === names[i] ? sum : sum + b.size), 0);
  const distance = (n: number): number => Math.abs(Math.log2(n / 2048));
  const before = chosen.get(key);
  if (!before || distance(bytes) < distance(before.bytes)) chosen.set(key, { launch, bytes });
}

/** What the compiler has against `source` with the bindings that `kernel` declares; null if nothing. */
async function complaint(kernel: Kernel, source: string): Promise<string | null> {
  gpu.pushErrorScope("validation");
  const entries = Object.values(kernel.bindings).map((access, binding): GPUBindGroupLayoutEntry => ({
    binding,
    visibility: GPUShaderStage.COMPUTE,
    buffer: { type: access === "read" ? "read-only-storage" : "storage" },
  }));
  if (kernel.layout.bytes)
    entries.push({
      binding: entries.length,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type: "uniform", hasDynamicOffset: true, minBindingSize: kernel.layout.bytes },
    });
  const module = gpu.createShaderModule({ code: source });
  const layout = gpu.createPipelineLayout({ bindGroupLayouts: [gpu.createBindGroupLayout({ entries })] });
  gpu.createComputePipeline({ layout, compute: { module, entryPoint: kernel.name } });
  const error = await gpu.popErrorScope();
  if (!error) return null;
  const messages = (await module.getCompilationInfo()).messages
    .filter((m) => m.type === "error")
    .map((m) => `line ${m.lineNum}: ${m.message}`);
  return messages.length ? messages.join("\n") : error.message;
}

describe("kernels compile", () => {
  it.each(kernels.map((k) => [k.name, k] as const))("%s as its file stands", async (_, kernel) => {
    expect(await complaint(kernel, specialise(kernel))).toBeNull();
  });

  /** Verdicts by pipeline key: the profiles share most of their variants. */
  const compiled = new Map<string, string | null>();
  it.each(Object.keys(PROFILES))("every variant that a device like %s launches", async (profile) => {
    const { pipelines, problems } = runs.get(profile)!;
    const found = [...problems];
    for (const [key, { kernel, constants, uses }] of pipelines) {
      if (!compiled.has(key)) compiled.set(key, await complaint(kernel, specialise(kernel, constants, uses)));
      const said = compiled.get(key);
      if (said) found.push(`${key}: ${said}`);
    }
    expect(found).toEqual([]);
    expect(pipelines.size).toBeGreaterThan(100);
  });

  it("a mistake is seen, with its line", async () => {
    const [kernel] = kernels;
    const source = specialise(kernel!).replace(/\{\s*\n/, "{\n  let wrong: f32 = 1u;\n");
    expect(await complaint(kernel!, source)).toMatch(/line \d+: /);
  });

  it.each(Object.keys(SUBGROUPS_ONLY))("%s is not launched without subgroups", (name) => {
    expect(kernels.map((k) => k.name)).toContain(name);
    const plain = [...runs.get("WebGPU defaults")!.pipelines.values()];
    expect(plain.some((p) => p.kernel.name === name)).toBe(false);
  });

  it("no variant of a plain device needs a feature", () => {
    const plain = [...runs.get("WebGPU defaults")!.pipelines.values()];
    const needing = plain.filter((p) => /^enable\b/m.test(specialise(p.kernel, p.constants, p.uses)));
    expect(needing.map((p) => p.key)).toEqual([]);
  });
});

describe("races", () => {
  it("are found where a barrier is missing", () => {
    const broken = `@group(0) @binding(0) var<storage, read_write> y: array<u32>;
      var<workgroup> tile: array<u32, 64>;
      fn other(lane: u32) -> u32 { return 63u - lane; }
      fn total(lane: u32) -> u32 {
        workgroupBarrier();
        for (var width = 32u; width > 0u; width /= 2u) {
          if (lane < width) { tile[lane] += tile[lane + width]; }
          workgroupBarrier();
        }
        return tile[0];
      }
      @compute @workgroup_size(64) fn broken(@builtin(local_invocation_index) lane: u32) {
        tile[lane] = lane;
        for (var i = 0u; i < 2u; i++) { BARRIER y[lane] = tile[other(lane)]; }
        let sum = total(lane);
        y[lane] = sum;
      }`;
    const run = (barrier: string): string[] =>
      races(broken.replace("BARRIER", barrier), "broken", [1], [new ArrayBuffer(256)], null);
    expect(run("")).not.toEqual([]);
    expect(run("workgroupBarrier();")).toEqual([]);
    expect(run("if (lane < 3u) { workgroupBarrier(); }").join()).toMatch(/divergence/);
  });

  it("there are none in any kernel with workgroup memory, and there would be without its barriers", () => {
    const problems: string[] = [];
    const checked = new Map<string, number>();
    for (const [key, { launch }] of [...chosen].toSorted((a, b) => a[1].bytes - b[1].bytes)) {
      const { kernel, constants, uses } = launch.pipeline;
      const { name } = kernel;
      const source = specialise(kernel, constants, uses);
      const times = checked.get(name) ?? 0;
      if (!source.includes("var<workgroup>") || usesSubgroups(source) || name in UNRACED || times === RACED_EACH)
        continue;
      checked.set(name, times + 1);
      const buffers = launch.bindings.map((b) => new ArrayBuffer(b.size));
      const run = (text: string): string[] => races(text, name, [1], buffers, launch.params);
      problems.push(...run(source).map((text) => `${key}: ${text}`));
      if (times === 0 && run(source.replace(/\bworkgroupBarrier\(\);/g, "")).length === 0)
        problems.push(`${key}: nothing is found without barriers; choose another launch`);
    }
    expect(problems).toEqual([]);
    const left = kernels.filter(
      (k) => specialise(k).includes("var<workgroup>") && !checked.has(k.name) && !(k.name in UNRACED),
    );
    expect(
      left.map((k) => k.name),
      "kernels with workgroup memory that no row of tests/cases.ts launches without subgroups",
    ).toEqual([]);
  });
});
