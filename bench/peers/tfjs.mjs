// TensorFlow.js on its WebGPU backend. Convolutions are NHWC there: inputs and results are transposed on the host.
import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-webgpu";
import { createRequire } from "node:module";
import { versionOf } from "./versions.mjs";

// Gradients are not in the bundle for Node. These files are of bundlers' making (imports of folders): tsx, which runs this process, reads them by
// `require`. They register in what is global to the process, so a second copy of the library's code does no harm.
createRequire(import.meta.url)("@tensorflow/tfjs-core/dist/register_all_gradients.js");

const CHAINED = 100;

/** Dimensions of a row-major array in another order. */
function permute({ shape, data }, order) {
  const to = order.map((d) => shape[d]);
  const strides = shape.map((_, d) => shape.slice(d + 1).reduce((a, b) => a * b, 1));
  const out = new Float32Array(data.length);
  const index = to.map(() => 0);
  for (let flat = 0; flat < out.length; flat++) {
    out[flat] = data[index.reduce((sum, v, d) => sum + v * strides[order[d]], 0)];
    for (let d = to.length - 1; d >= 0; d--) {
      if (++index[d] < to[d]) break;
      index[d] = 0;
    }
  }
  return { shape: to, data: out };
}

export async function open() {
  if (!(await tf.setBackend("webgpu"))) throw new Error("the WebGPU backend does not start");
  await tf.ready();
  const compiled =
    (fn, { before = (inputs) => inputs, after = (result) => result } = {}) =>
    (inputs) => {
      const tensors = before(inputs).map(({ shape, data }) => tf.tensor(data, shape, "float32"));
      return {
        run: () => tf.tidy(() => [fn(...tensors)].flat()),
        read: (results) => Promise.all(results.map(async (x) => after({ shape: x.shape, data: await x.data() }).data)),
        finish: async (all) => {
          const one = tf.tidy(() => tf.slice(tf.reshape(all.at(-1)[0], [-1]), [0], [1]));
          await one.data();
          one.dispose();
        },
        free: (results) => tf.dispose(results),
        dispose: () => tf.dispose(tensors),
      };
    };
  const gelu = (x) => tf.mul(tf.mul(x, 0.5), tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1));
  const linear = (x, w) => tf.matMul(x, w, false, true);
  const attention = (q, k, v) => {
    const t = q.shape[2];
    const scores = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(q.shape[3]));
    const positions = tf.range(0, t);
    const mask = tf.greaterEqual(tf.reshape(positions, [1, 1, t, 1]), tf.reshape(positions, [1, 1, 1, t]));
    return tf.matMul(tf.softmax(tf.where(mask, scores, tf.fill(scores.shape, -1e30))), v);
  };
  const mlp = (x, w1, b1, w2, b2) => tf.add(linear(gelu(tf.add(linear(x, w1), b1)), w2), b2);
  const train =
    (fn) =>
    (...args) => {
      const dy = args.pop();
      const { value, grads } = tf.valueAndGrads(fn)(args, dy);
      return [value, ...grads];
    };
  const pixels = {
    before: ([x, w, b]) => [permute(x, [0, 2, 3, 1]), permute(w, [2, 3, 1, 0]), b],
    after: (y) => permute(y, [0, 3, 1, 2]),
  };
  return {
    name: "TensorFlow.js",
    version: versionOf("@tensorflow/tfjs-core"),
    ops: {
      matmul: compiled((a, b) => tf.matMul(a, b)),
      linear: compiled(linear),
      layerNorm: compiled((x, w, b) => {
        const { mean, variance } = tf.moments(x, -1, true);
        return tf.add(tf.mul(tf.div(tf.sub(x, mean), tf.sqrt(tf.add(variance, 1e-5))), w), b);
      }),
      rmsNorm: compiled((x, w) => tf.mul(tf.div(x, tf.sqrt(tf.add(tf.mean(tf.square(x), -1, true), 1e-6))), w)),
      softmax: compiled((x) => tf.softmax(x)),
      attention: compiled(attention),
      attentionTrain: compiled(train(attention)),
      conv: compiled((x, w, b) => tf.add(tf.conv2d(x, w, 1, "same"), b), pixels),
      mlp: compiled(mlp),
      mlpTrain: compiled(train(mlp)),
      chain: compiled((x) => {
        for (let i = 0; i < CHAINED / 2; i++) x = tf.add(tf.mul(x, 0.99), 0.01);
        return x;
      }),
    },
  };
}
