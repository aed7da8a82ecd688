// ONNX Runtime for Node: its own WebGPU if the build has it, else its CPU kernels.
import ort from "onnxruntime-node";
import { OPS, modelOf } from "./onnx.mjs";
import { versionOf } from "./versions.mjs";

export async function open() {
  const backends = ort.listSupportedBackends?.().map(({ name }) => name) ?? [];
  const provider = process.env.JANUS_BENCH_ORT_NODE ?? (backends.includes("webgpu") ? "webgpu" : "cpu");
  const compiled = (op) => async (inputs) => {
    const model = modelOf(op, inputs);
    const session = await ort.InferenceSession.create(model.bytes, {
      executionProviders: [provider],
      logSeverityLevel: 3,
    });
    const feeds = Object.fromEntries(
      model.inputs.map(({ shape, data }, i) => [`x${i}`, new ort.Tensor("float32", data, shape)]),
    );
    return {
      run: async () => [(await session.run(feeds)).y], // results come back to the host with every call
      read: async ([y]) => [model.back(await y.getData())],
      finish: async () => undefined,
      free: (results) => results.forEach((y) => y.dispose?.()),
      dispose: () => void session.release(),
    };
  };
  return {
    name: `ONNX Runtime node (${provider})`,
    version: versionOf("onnxruntime-node"),
    adapter: provider,
    ops: Object.fromEntries(OPS.map((op) => [op, compiled(op)])),
  };
}
