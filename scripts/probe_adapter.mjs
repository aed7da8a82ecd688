// Prints the name of a WebGPU adapter that computes correctly, or exits with a reason. Run by setup.mjs as a child
// process with a time limit, through tsx because it uses the engine's own way to the software driver.

import { create, globals } from "webgpu";
import { preloadSoftwareVulkan } from "../engine/software_vulkan.ts";

Object.assign(globalThis, globals);
const instances = []; // Dawn dies when the object from create() is collected.

process.on("uncaughtException", (error) => fail(error.message));

async function requestAdapter() {
  const gpu = create([]);
  instances.push(gpu);
  return gpu.requestAdapter();
}

/** Squares four numbers. */
async function computes(adapter) {
  const device = await adapter.requestDevice();
  const module = device.createShaderModule({
    code: `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
      @compute @workgroup_size(4) fn main(@builtin(local_invocation_index) i: u32) { x[i] = x[i] * x[i]; }`,
  });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } });
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const buffer = device.createBuffer({ size: 16, usage });
  const readback = device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  device.queue.writeBuffer(buffer, 0, new Float32Array([1, 2, 3, 4]));
  const layout = pipeline.getBindGroupLayout(0);
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer } }] }));
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(buffer, 0, readback, 0, 16);
  device.queue.submit([encoder.finish()]);
  await readback.mapAsync(GPUMapMode.READ);
  const result = [...new Float32Array(readback.getMappedRange())].join();
  readback.unmap();
  return result === "1,4,9,16";
}

let adapter = await requestAdapter();
if (!adapter) {
  const dir = await preloadSoftwareVulkan();
  if (dir) adapter = await requestAdapter();
  if (!adapter) fail(dir ? `no adapter, not even with the driver in ${dir}` : "no adapter");
}
const { description, device, vendor } = adapter.info;
const name = description || device || vendor;
if (!(await computes(adapter))) fail(`${name} computes wrong results`);
process.stdout.write(`${name}\n`, () => process.exit(0));

function fail(reason) {
  console.error(reason);
  process.exit(1);
}
