/**
 * What quantising changes in each linear layer: the relative error of its output for the inputs that it has in the model with the full weights,
 * along prompts followed by image codes. Errors of earlier layers do not count.
 */
import { F, noGrad, scope, tensor } from "../index.ts";
import type { Device, Quantization, Tensor } from "../index.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { Janus } from "../model/janus/node/janus.ts";
import type { Linear } from "../model/nn/layers.ts";
import { quantizedLayers } from "../model/nn/quantized_linear.ts";
import { table } from "./harness.ts";

/** Relative errors by the path of the layer. */
export type LayerErrors = ReadonlyMap<string, number>;

interface Seen {
  readonly x: Tensor;
  readonly y: Float32Array;
}

/** Errors of the layers of a folder's model in some kinds. */
export async function layerErrors(
  folder: string,
  device: Device,
  prompts: readonly string[],
  kinds: readonly Quantization[],
): Promise<ReadonlyMap<Quantization, LayerErrors>> {
  const full = await Janus.fromPretrained(folder, { device, dtype: "bf16" });
  const errors = new Map<Quantization, LayerErrors>();
  let seen: Map<string, Seen[]> | null = null;
  for (const kind of kinds) {
    const janus = await Janus.fromPretrained(folder, { device, dtype: "bf16", quantize: kind, onNotice: () => undefined }); // prettier-ignore
    const layers = [...quantizedLayers(janus.model)];
    seen ??= await inputsOf(full, prompts, new Set(layers.map(([path]) => path)));
    const found = new Map<string, number>();
    for (const [path, layer] of layers) found.set(path, await relativeError(seen.get(path)!, (x) => layer.call(x)));
    errors.set(kind, found);
    janus.dispose();
  }
  for (const { x } of [...(seen?.values() ?? [])].flat()) x.dispose();
  full.dispose();
  return errors;
}

/** Inputs and outputs of the layers at `paths` along the prompts. */
async function inputsOf(
  janus: Janus,
  prompts: readonly string[],
  paths: ReadonlySet<string>,
): Promise<Map<string, Seen[]>> {
  const seen = new Map<string, { x: Tensor; y: Tensor }[]>();
  const handles = [...paths].map((path) => {
    const list: { x: Tensor; y: Tensor }[] = [];
    seen.set(path, list);
    return layerAt(janus.model, path).registerForwardHook((_, [x], y) => void list.push({ x: x.detach().keep(), y: y.detach().keep() })); // prettier-ignore
  });
  for (const prompt of prompts) run(janus, prompt);
  for (const handle of handles) handle.remove();
  const read = new Map<string, Seen[]>();
  for (const [path, list] of seen) {
    const values: Seen[] = [];
    for (const { x, y } of list) {
      values.push({ x, y: (await y.data()) as Float32Array });
      y.dispose();
    }
    read.set(path, values);
  }
  return read;
}

const layerAt = (model: JanusForConditionalGeneration, path: string): Linear =>
  path.split(".").reduce<unknown>((at, key) => Reflect.get(at as object, key), model) as Linear;

/** One pass over a prompt and some codes, through both heads. */
function run({ model, processor, config }: Janus, prompt: string): void {
  const asked = processor.prompts.encode(processor.prompts.generation(prompt));
  const codes = Int32Array.from({ length: 24 }, (_, k) => (7 * k) % config.vq.codes);
  noGrad(() =>
    scope(() => {
      const image = model.embedCodes(tensor(codes, { shape: [1, codes.length] }));
      const text = model.embedText(tensor(Int32Array.from(asked), { shape: [1, asked.length] }));
      const hidden = model.hidden(F.cat([text, image], 1), { positions: F.arange(asked.length + codes.length) });
      model.logits(hidden);
      model.codeLogits(hidden);
    }),
  );
}

async function relativeError(seen: readonly Seen[], layer: (x: Tensor) => Tensor): Promise<number> {
  let [squares, of] = [0, 0];
  for (const { x, y } of seen) {
    using z = noGrad(() => scope(() => layer(x)));
    const other = (await z.data()) as Float32Array;
    for (let i = 0; i < y.length; i++) {
      squares += (other[i]! - y[i]!) ** 2;
      of += y[i]! ** 2;
    }
  }
  return Math.sqrt(squares / of);
}

const COLUMNS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const HEADS = ["lm_head", "proj_out", "vision_head"];

/** Tables of the layers of the Llama, a row each, and of the heads; errors in percent. */
export function layerTable(errors: LayerErrors): string {
  const at = (layer: string, name: string): string => {
    const found = [...errors].find(([path]) => path.endsWith(name) && (!layer || path.includes(`.layers.${layer}.`)));
    return (100 * found![1]).toPrecision(2);
  };
  const layers = new Set([...errors.keys()].flatMap((path) => /\.layers\.(\d+)\./.exec(path)?.[1] ?? []));
  const rows = [...layers].map((layer) => [layer, ...COLUMNS.map((name) => at(layer, name))]);
  const heads = HEADS.map((name) => at("", name));
  return `${table(["layer", ...COLUMNS], rows)}\n${table(["heads", ...HEADS], [["", ...heads]])}`;
}
