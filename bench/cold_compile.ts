/**
 * `node scripts/run.mjs bench/cold_compile.ts [bf16|int8|int4] [SIZE]`: how long do all kernels of a model take to compile without a shader cache?
 * Records the pipelines of the work that using Janus-Pro-1B is made of (workloads.ts) on the null device with this device's capabilities, then
 * compiles each and runs one workgroup of it, because software Vulkan compiles when a pipeline first runs.
 */
process.env["MESA_SHADER_CACHE_DISABLE"] = "true";
import { Device } from "../index.ts";
import type { Quantization } from "../index.ts";
import type { Launch } from "../engine/types.ts";
import { JANUS_PRO_1B } from "../model/janus/config.ts";
import { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { table } from "./harness.ts";
import { workloads } from "./workloads.ts";

/** Buffers are as small as this: reads behind their end are allowed, and the results do not matter. */
const MAX_BYTES = 1 << 20;
/** Rows that are shown. */
const SHOWN = 25;

const kind = process.argv[2] ?? "bf16";
if (!["bf16", "int8", "int4"].includes(kind)) {
  console.error("usage: node scripts/run.mjs bench/cold_compile.ts [bf16|int8|int4]");
  process.exit(2);
}

/** The first launch of each pipeline, in order. */
async function pipelinesOf(device: Device): Promise<Launch[]> {
  const counting = await Device.create({ backend: "null", capabilities: device.capabilities, memoryBudget: Infinity });
  const found = new Map<string, Launch>();
  counting.queue.onLaunch((launch) => {
    if (!found.has(launch.pipeline.key)) found.set(launch.pipeline.key, launch);
  });
  const quantize = kind === "bf16" ? {} : { quantize: kind as Quantization };
  const model = new JanusForConditionalGeneration(JANUS_PRO_1B, { dtype: "bf16", init: false, device: counting, ...quantize }).setRequiresGrad(false); // prettier-ignore
  {
    using work = workloads(model, JANUS_PRO_1B);
    for (const { run } of work.list) run();
  }
  counting.destroy();
  return [...found.values()];
}

/** Wall and processor time of compiling and running one workgroup, s. */
async function compile(device: Device, { pipeline, bindings, params }: Launch): Promise<readonly [number, number]> {
  const gpu = device.gpu!;
  const made: GPUBuffer[] = [];
  const buffer = (size: number, usage: number): GPUBuffer => {
    made.push(gpu.createBuffer({ size, usage }));
    return made.at(-1)!;
  };
  const sizes = bindings.map(({ size }) => Math.min(Math.ceil(size / 4) * 4, MAX_BYTES));
  const entries: GPUBindGroupEntry[] = sizes.map((size, binding) => ({
    binding,
    resource: { buffer: buffer(size, GPUBufferUsage.STORAGE) },
  }));
  if (params) {
    const uniform = buffer(4 * params.length, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
    gpu.queue.writeBuffer(uniform, 0, params as Uint32Array<ArrayBuffer>);
    entries.push({ binding: sizes.length, resource: { buffer: uniform } });
  }
  await device.sync();
  const [cpu, started] = [process.cpuUsage(), performance.now()];
  const { gpu: built, layout } = device.queue.pipelineOf(pipeline.kernel, pipeline.constants, pipeline.uses);
  const group = gpu.createBindGroup({ layout: layout!, entries });
  const encoder = gpu.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(built!);
  if (params) pass.setBindGroup(0, group, [0]);
  else pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(1);
  pass.end();
  gpu.queue.submit([encoder.finish()]);
  await device.sync();
  const { user, system } = process.cpuUsage(cpu);
  const times = [(performance.now() - started) / 1000, (user + system) / 1e6] as const;
  for (const one of made) one.destroy();
  return times;
}

const device = await Device.create();
const launches = await pipelinesOf(device);
const rows: { key: string; wall: number; cpu: number }[] = [];
for (const launch of launches) {
  const [wall, cpu] = await compile(device, launch);
  rows.push({ key: launch.pipeline.key, wall, cpu });
}
const total = (of: "wall" | "cpu"): string => rows.reduce((sum, row) => sum + row[of], 0).toFixed(1);
console.log(
  `${device.name}, 1B in ${kind}: ${rows.length} pipelines, ${total("wall")} s, ${total("cpu")} s of processor time`,
);
const kernels = new Map<string, { count: number; cpu: number }>();
for (const { key, cpu } of rows) {
  const sum = kernels.get(key.split(" ")[0]!) ?? { count: 0, cpu: 0 };
  kernels.set(key.split(" ")[0]!, { count: sum.count + 1, cpu: sum.cpu + cpu });
}
const byKernel = [...kernels].sort((a, b) => b[1].cpu - a[1].cpu);
console.log(table(["kernel", "pipelines", "processor s"], byKernel.map(([name, { count, cpu }]) => [name, String(count), cpu.toFixed(2)]))); // prettier-ignore
rows.sort((a, b) => b.cpu - a.cpu);
console.log(table(["pipeline", "s", "processor s"], rows.slice(0, SHOWN).map(({ key, wall, cpu }) => [key.slice(0, 140), wall.toFixed(2), cpu.toFixed(2)]))); // prettier-ignore
device.destroy();
