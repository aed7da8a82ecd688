// ONNX Runtime for the web on WebGPU, inputs and results in buffers of the GPU. It has no training.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-web/webgpu";
import { OPS, modelOf } from "./onnx.mjs";
import { versionOf } from "./versions.mjs";

const dist = new URL("node_modules/onnxruntime-web/dist/", import.meta.url);

/** Dawn's bindings for Node take no view of a SharedArrayBuffer, which is what ONNX Runtime's memory is: such data is copied first. */
async function copySharedData() {
  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter.requestDevice();
  const queue = Object.getPrototypeOf(device.queue);
  const { writeBuffer } = queue;
  queue.writeBuffer = function (buffer, offset, data, from = 0, size = undefined) {
    const view = ArrayBuffer.isView(data) ? data : new Uint8Array(data);
    if (!(view.buffer instanceof SharedArrayBuffer)) return Reflect.apply(writeBuffer, this, arguments);
    const end = size === undefined ? undefined : from + size;
    return Reflect.apply(writeBuffer, this, [buffer, offset, view.slice(from, end)]);
  };
  device.destroy();
}

export async function open() {
  await copySharedData();
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { mjs: new URL("ort-wasm-simd-threaded.asyncify.mjs", dist).href };
  ort.env.wasm.wasmBinary = readFileSync(fileURLToPath(new URL("ort-wasm-simd-threaded.asyncify.wasm", dist)));
  ort.env.logLevel = "error";
  const compiled = (op) => async (inputs) => {
    const model = modelOf(op, inputs);
    const session = await ort.InferenceSession.create(model.bytes, {
      executionProviders: ["webgpu"],
      preferredOutputLocation: "gpu-buffer",
    });
    const device = await ort.env.webgpu.device;
    const feeds = {};
    for (const [i, { shape, data }] of model.inputs.entries()) {
      const size = Math.ceil(data.byteLength / 16) * 16;
      const buffer = device.createBuffer({
        size,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
      });
      device.queue.writeBuffer(buffer, 0, data);
      feeds[`x${i}`] = ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims: shape });
    }
    return {
      run: async () => [(await session.run(feeds)).y],
      read: async ([y]) => [model.back(await y.getData())],
      finish: () => device.queue.onSubmittedWorkDone(), // it is not lazy
      free: (results) => results.forEach((y) => y.dispose()),
      dispose: () => void session.release(),
    };
  };
  return {
    name: "ONNX Runtime web",
    version: versionOf("onnxruntime-web"),
    ops: Object.fromEntries(OPS.map((op) => [op, compiled(op)])),
  };
}
