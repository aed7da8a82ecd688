// This engine, through the same child as the others: op by op, or replayed from a capture (janus-captured).
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Device, F, backward, capture, scope, tensor, zeroGradients } from "../../index.ts";

const CHAINED = 100;

export async function openJanus(isCaptured) {
  const device = await Device.create();
  const list = (result) => (Array.isArray(result) ? result : [result]);
  const compiled = (fn) => async (inputs) => {
    const tensors = inputs.map(({ shape, data }) => tensor(data, { shape }).keep());
    const eager = () => scope(() => list(fn(...tensors))).map((t) => t.keep());
    const captured = isCaptured ? await capture(() => list(fn(...tensors))) : null;
    return {
      run: captured ? () => (captured.replay(), captured.result) : eager,
      read: async (results) => Promise.all(results.map(async (t) => Float32Array.from(await t.data()))),
      finish: async (all) => {
        const last = all.at(-1)[0];
        await device.read({ storage: last.storage, offset: 0, size: 4 });
      },
      free: (results) => captured || results.forEach((t) => t.dispose()),
      dispose: () => {
        captured?.dispose();
        tensors.forEach((t) => t.dispose());
      },
    };
  };
  const attention = (q, k, v) => F.attention(q, k, v, { causal: true });
  const mlp = (x, w1, b1, w2, b2) => F.linear(F.linear(x, w1, b1, { activation: "gelu" }), w2, b2);
  const train =
    (fn) =>
    (...args) => {
      const dy = args.pop();
      for (const t of args) t.requiresGrad = true;
      const y = fn(...args);
      backward(y, dy);
      const gradients = args.map((t) => t.grad.clone());
      zeroGradients(args);
      return [y.detach(), ...gradients];
    };
  const { version } = JSON.parse(readFileSync(fileURLToPath(new URL("../../package.json", import.meta.url)), "utf8"));
  return {
    name: isCaptured ? "janus-webgpu, captured" : "janus-webgpu",
    version,
    adapter: device.name,
    ops: {
      matmul: compiled((a, b) => F.matmul(a, b)),
      linear: compiled((x, w) => F.linear(x, w)),
      layerNorm: compiled((x, w, b) => F.layerNorm(x, w, b)),
      rmsNorm: compiled((x, w) => F.rmsNorm(x, w, 1e-6)),
      softmax: compiled((x) => F.softmax(x)),
      attention: compiled(attention),
      attentionTrain: compiled(train(attention)),
      conv: compiled((x, w, b) => F.conv2d(x, w, b, { padding: 1 })),
      mlp: compiled(mlp),
      mlpTrain: compiled(train(mlp)),
      chain: compiled((x) => {
        for (let i = 0; i < CHAINED / 2; i++) x = F.add(F.mul(x, 0.99), 0.01);
        return x;
      }),
    },
  };
}

export const open = () => openJanus(false);
