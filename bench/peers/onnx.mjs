// ONNX models of the rows, written in memory: what both builds of ONNX Runtime load. Weights are inputs, so that nothing is folded.
import onnxProto from "onnx-proto";

const { onnx } = onnxProto;
const CHAINED = 100;
const FLOAT = onnx.TensorProto.DataType.FLOAT;

const value = (name, shape) => ({
  name,
  type: { tensorType: { elemType: FLOAT, shape: { dim: shape.map((n) => ({ dimValue: n })) } } },
});
const attribute = (name, given) => {
  const types = onnx.AttributeProto.AttributeType;
  if (Array.isArray(given)) return { name, type: types.INTS, ints: given };
  if (typeof given === "string") return { name, type: types.STRING, s: new TextEncoder().encode(given) };
  return Number.isInteger(given) ? { name, type: types.INT, i: given } : { name, type: types.FLOAT, f: given };
};
const node = (opType, input, output, attributes = {}, domain = "") => ({
  opType,
  domain,
  input,
  output: [output],
  attribute: Object.entries(attributes).map(([name, given]) => attribute(name, given)),
});
const constant = (name, x) => ({ name, dims: [], dataType: FLOAT, floatData: [x] });

const linear = (x, w, b, y) => node("Gemm", b ? [x, w, b] : [x, w], y, { transB: 1 });

/** Nodes by op, from names of inputs x0, x1, … to y. */
const GRAPHS = {
  matmul: () => [node("MatMul", ["x0", "x1"], "y")],
  linear: () => [linear("x0", "x1", null, "y")],
  layerNorm: () => [node("LayerNormalization", ["x0", "x1", "x2"], "y", { axis: -1, epsilon: 1e-5 })],
  rmsNorm: () => [node("SimplifiedLayerNormalization", ["x0", "x1"], "y", { axis: -1, epsilon: 1e-6 })],
  softmax: () => [node("Softmax", ["x0"], "y", { axis: -1 })],
  // The fused one; q, k and v are [B, T, H · D] there.
  attention: ([q]) => [
    node("MultiHeadAttention", ["x0", "x1", "x2"], "y", { num_heads: q.heads, unidirectional: 1 }, "com.microsoft"),
  ],
  conv: () => [node("Conv", ["x0", "x1", "x2"], "y", { pads: [1, 1, 1, 1], kernel_shape: [3, 3] })],
  mlp: () => [
    linear("x0", "x1", "x2", "h"),
    node("Gelu", ["h"], "g", {}, "com.microsoft"),
    linear("g", "x3", "x4", "y"),
  ],
  chain: () =>
    Array.from({ length: CHAINED }, (_, i) =>
      node(
        i % 2 ? "Add" : "Mul",
        [i ? `h${i}` : "x0", i % 2 ? "shift" : "scale"],
        i === CHAINED - 1 ? "y" : `h${i + 1}`,
      ),
    ),
};

/** [1, H, T, D] as [1, T, H · D], and back. */
function heads({ shape: [, a, b, d], data }) {
  const out = new Float32Array(data.length);
  for (let i = 0; i < a; i++)
    for (let j = 0; j < b; j++) out.set(data.subarray((i * b + j) * d, (i * b + j + 1) * d), (j * a + i) * d);
  return out;
}

/** What a session needs for an op: the model, inputs as they are there, and what turns the result back; null if there is none. */
export function modelOf(op, inputs) {
  const make = GRAPHS[op];
  if (!make) return null;
  const isAttention = op === "attention";
  const fed = isAttention
    ? inputs.map((x) => ({ shape: [1, x.shape[2], x.shape[1] * x.shape[3]], data: heads(x), heads: x.shape[1] }))
    : inputs;
  const [, h, t, d] = inputs[0].shape;
  const model = onnx.ModelProto.create({
    irVersion: 10,
    opsetImport: [
      { domain: "", version: 17 },
      { domain: "com.microsoft", version: 1 },
    ],
    graph: {
      name: op,
      node: make(fed),
      input: fed.map(({ shape }, i) => value(`x${i}`, shape)),
      output: [{ name: "y", type: { tensorType: { elemType: FLOAT } } }],
      initializer: op === "chain" ? [constant("scale", 0.99), constant("shift", 0.01)] : [],
    },
  });
  return {
    bytes: onnx.ModelProto.encode(model).finish(),
    inputs: fed,
    back: (data) => (isAttention ? heads({ shape: [1, t, h, d], data }) : data),
  };
}

export const OPS = Object.keys(GRAPHS);
