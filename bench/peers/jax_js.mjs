// jax-js. Arrays are counted: an op consumes its operands unless they are passed as `.ref`.
import { blockUntilReady, defaultDevice, init, jit, nn, numpy as np, lax, vjp } from "@jax-js/jax";
import { versionOf } from "./versions.mjs";

const CHAINED = 100;

export async function open() {
  await init("webgpu");
  defaultDevice("webgpu");
  const upload = ({ shape, data }) => np.array(data, { shape, dtype: np.float32 });
  /** A compiled function of arrays that stay. */
  const compiled = (fn) => (inputs) => {
    const arrays = inputs.map(upload);
    const compiledFn = jit(fn);
    const list = (result) => (Array.isArray(result) ? result : [result]);
    return {
      run: () => list(compiledFn(...arrays.map((x) => x.ref))),
      read: (results) => Promise.all(results.map((x) => x.ref.data())),
      finish: async (all) => {
        await blockUntilReady(all.flat().map((x) => x.ref)).then((xs) => xs.forEach((x) => x.dispose()));
        const last = all.at(-1)[0].ref;
        await np.ravel(last).slice([0, 1]).data();
      },
      free: (results) => results.forEach((x) => x.dispose()),
      dispose: () => arrays.forEach((x) => x.dispose()),
    };
  };
  const gelu = (x) => nn.gelu(x, { approximate: false });
  const linear = (x, w) => np.matmul(x, np.matrixTranspose(w));
  const attention = (q, k, v) => {
    const t = q.shape[2];
    const scores = np.matmul(q, np.matrixTranspose(k)).mul(1 / Math.sqrt(v.shape[3]));
    const mask = np.tri(t).reshape([1, 1, t, t]);
    return np.matmul(nn.softmax(np.where(mask.greater(0.5), scores, -1e30), -1), v);
  };
  const mlp = (x, w1, b1, w2, b2) => linear(gelu(linear(x, w1).add(b1)), w2).add(b2);
  const train =
    (fn, count) =>
    (...args) => {
      const dy = args.pop();
      const [y, pull] = vjp(fn, args.slice(0, count));
      return [y, ...pull(dy)];
    };
  return {
    name: "jax-js",
    version: versionOf("@jax-js/jax"),
    ops: {
      matmul: compiled((a, b) => np.matmul(a, b)),
      linear: compiled(linear),
      layerNorm: compiled((x, w, b) => {
        const centred = x.ref.sub(np.mean(x, -1, { keepdims: true }));
        const variance = np.mean(centred.ref.mul(centred.ref), -1, { keepdims: true });
        return centred
          .div(np.sqrt(variance.add(1e-5)))
          .mul(w)
          .add(b);
      }),
      rmsNorm: compiled((x, w) => {
        const square = np.mean(x.ref.mul(x.ref), -1, { keepdims: true });
        return x.div(np.sqrt(square.add(1e-6))).mul(w);
      }),
      softmax: compiled((x) => nn.softmax(x, -1)),
      attention: compiled(attention),
      attentionTrain: compiled(train(attention, 3)),
      conv: compiled((x, w, b) => lax.conv(x, w, [1, 1], "SAME").add(b.reshape([1, b.shape[0], 1, 1]))),
      mlp: compiled(mlp),
      mlpTrain: compiled(train(mlp, 5)),
      chain: compiled((x) => {
        for (let i = 0; i < CHAINED / 2; i++) x = x.mul(0.99).add(0.01);
        return x;
      }),
    },
  };
}
