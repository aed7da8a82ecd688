/**
 * `node scripts/run.mjs bench/quantization.ts FOLDER [PNG]`: what quantising a model, or its caches of keys and values, changes. Logits of int8 and int4 against
 * those of bf16 weights and a cache of f32: KL divergence and agreement of the most probable token, for text and for image codes along the codes
 * that the full model draws; codes that the other one draws from the same seed, and the difference of the images, which PNG shows side by side; the
 * error of each layer's output.
 */
import { Device, F, noGrad, scope, setDevice, tensor } from "../index.ts";
import type { Tensor } from "../index.ts";
import type { CausalModel } from "../model/causal.ts";
import { cacheFor } from "../model/decoding.ts";
import type { LoadOptions } from "../model/janus/load.ts";
import { Janus } from "../model/janus/node/janus.ts";
import { shippedModel } from "../model/janus/node/shipped.ts";
import type { RgbImage } from "../model/image/image.ts";
import { writeFileAtomic } from "../model/node/files.ts";
import { encodePng } from "../model/node/image_file.ts";
import { table } from "./harness.ts";
import { layerErrors, layerTable } from "./quantization_layers.ts";

const KINDS = ["int8", "int4"] as const;
const CACHES = ["bf16", "f16", "int8"] as const;
const PROMPTS = ["two red squares", "a blue circle left of a green ring", "a small yellow star"];

/** What a model computes for the prompts. */
interface Outputs {
  /** Rows of logits. */
  readonly text: readonly Float32Array[];
  readonly codes: readonly Float32Array[];
  readonly drawn: readonly (readonly number[])[];
  readonly images: readonly RgbImage[];
  readonly weightBytes: number;
}

/** What differs from bf16 weights and a cache of f32. */
export type Change = Pick<LoadOptions, "quantize" | "cacheDType">;

export interface QuantizationError {
  readonly change: Change;
  /** Mean KL divergence from the bf16 model's distribution, in nats, and share of positions with the same most probable token. */
  readonly textKl: number;
  readonly textTop1: number;
  readonly codesKl: number;
  readonly codesTop1: number;
  /** Share of equal codes of images drawn with the same seeds, and the PSNR of these images in dB. */
  readonly drawnSame: number;
  readonly psnr: number;
  readonly weightBytes: number;
  readonly bf16Bytes: number;
}

/**
 * Errors of some changes for the model of a folder.
 * @param draw false: logits of the image codes are those along fixed codes, no image is drawn, and its figures are NaN
 */
export async function quantizationErrors(
  folder: string,
  device: Device,
  changes: readonly Change[],
  draw = true,
): Promise<readonly QuantizationError[]> {
  return (await compare(folder, device, changes, draw)).errors;
}

interface Compared {
  readonly errors: readonly QuantizationError[];
  /** Images of the prompts: of the full model, then with each change. */
  readonly pictures: readonly (readonly RgbImage[])[];
}

async function compare(folder: string, device: Device, changes: readonly Change[], draw: boolean): Promise<Compared> {
  const bf16 = await outputsOf(folder, device, {}, { draw });
  const errors: QuantizationError[] = [];
  const pictures = [bf16.images];
  for (const change of changes) {
    const own = await outputsOf(folder, device, change, { draw, along: bf16.drawn });
    pictures.push(own.images);
    const same = own.drawn.flatMap((codes, i) => codes.map((code, k) => Number(code === bf16.drawn[i]![k])));
    errors.push({
      change,
      textKl: mean(own.text.map((row, i) => klDivergence(bf16.text[i]!, row))),
      textTop1: mean(own.text.map((row, i) => Number(argmax(row) === argmax(bf16.text[i]!)))),
      codesKl: mean(own.codes.map((row, i) => klDivergence(bf16.codes[i]!, row))),
      codesTop1: mean(own.codes.map((row, i) => Number(argmax(row) === argmax(bf16.codes[i]!)))),
      drawnSame: mean(same),
      psnr: psnr(pixels(bf16.images), pixels(own.images)),
      weightBytes: own.weightBytes,
      bf16Bytes: bf16.weightBytes,
    });
  }
  return { errors, pictures };
}

const pixels = (images: readonly RgbImage[]): Uint8Array[] => images.map(({ data }) => Uint8Array.from(data));

async function outputsOf(
  folder: string,
  device: Device,
  change: Change,
  { draw, along }: { draw: boolean; along?: readonly (readonly number[])[] },
): Promise<Outputs> {
  const before = device.pool.stats.liveBytes;
  const janus = await Janus.fromPretrained(folder, { device, dtype: "bf16", ...change });
  const weightBytes = device.pool.stats.liveBytes - before;
  const pictures = draw ? await janus.generate(PROMPTS, { seed: 1 }).images() : [];
  const drawn = pictures.map(({ tokenIds }) => [...tokenIds]);
  const text: Float32Array[] = [];
  const codes: Float32Array[] = [];
  for (const [i, prompt] of PROMPTS.entries()) {
    const { model, processor } = janus;
    const asked = processor.prompts.encode(processor.prompts.conversation([{ role: "user", content: prompt }]));
    const ids = tensor(Int32Array.from(asked), { shape: [1, asked.length] });
    text.push(...(await rowsOf(() => model.logits(throughCache(model, model.embedText(ids))))));
    const forced = (along ?? drawn)[i] ?? Array.from({ length: 24 }, (_, k) => (7 * k) % janus.config.vq.codes);
    const codeRows = await rowsOf(() => {
      const image = model.embedCodes(tensor(Int32Array.from(forced), { shape: [1, forced.length] }));
      return model.codeLogits(throughCache(model, F.cat([model.embedText(ids), image], 1)));
    });
    codes.push(...codeRows.slice(asked.length - 1, -1));
    ids.dispose();
  }
  janus.dispose();
  return { text, codes, drawn, images: pictures.map(({ image }) => image), weightBytes };
}

/** Hidden states of embeddings [1, T, hidden], each of which reads the keys and values of those before it from a cache, as in decoding. */
function throughCache(model: CausalModel, embeddings: Tensor): Tensor {
  const tokens = embeddings.dim(1);
  const cache = cacheFor(model, 1, tokens, {});
  const states = model.hidden(embeddings, { positions: F.arange(tokens), cache, decode: true });
  cache.dispose();
  return states;
}

/** Rows of the last dimension. */
async function rowsOf(run: () => Tensor): Promise<Float32Array[]> {
  using y = noGrad(() => scope(run));
  const data = (await y.data()) as Float32Array;
  const width = y.dim(-1);
  return Array.from({ length: data.length / width }, (_, i) => data.subarray(i * width, (i + 1) * width));
}

const mean = (values: readonly number[]): number => values.reduce((sum, v) => sum + v, 0) / values.length;
const argmax = (row: Float32Array): number => row.reduce((best, v, i) => (v > row[best]! ? i : best), 0);

function logSoftmax(row: Float32Array): Float64Array {
  const most = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = row.reduce((s, v) => s + Math.exp(v - most), 0);
  return Float64Array.from(row, (v) => v - most - Math.log(sum));
}

/** Peak signal-to-noise ratio in dB over all images; Infinity for equal ones. */
function psnr(images: readonly Uint8Array[], others: readonly Uint8Array[]): number {
  const errors = images.flatMap((image, n) => Array.from(image, (v, i) => (v - others[n]![i]!) ** 2));
  return 10 * Math.log10(255 ** 2 / mean(errors));
}

/** KL(softmax(p) ‖ softmax(q)) in nats. */
export function klDivergence(p: Float32Array, q: Float32Array): number {
  const [a, b] = [logSoftmax(p), logSoftmax(q)];
  return a.reduce((sum, v, i) => sum + Math.exp(v) * (v - b[i]!), 0);
}

/** Images in a row for each prompt and a column for each model, 4 pixels apart; small ones are enlarged, pixel by pixel, to at least 128. */
function sideBySide(pictures: readonly (readonly RgbImage[])[]): RgbImage {
  const { width: side } = pictures[0]![0]!;
  const [times, gap] = [Math.ceil(128 / side), 4];
  const step = side * times + gap;
  const [width, height] = [step * pictures.length - gap, step * pictures[0]!.length - gap];
  const data = new Uint8Array(3 * width * height).fill(255);
  for (const [column, images] of pictures.entries())
    for (const [row, image] of images.entries())
      for (let y = 0; y < side * times; y++)
        for (let x = 0; x < side * times; x++) {
          const from = 3 * (Math.floor(y / times) * side + Math.floor(x / times));
          data.set(image.data.subarray(from, from + 3), 3 * ((row * step + y) * width + column * step + x));
        }
  return { width, height, data };
}

async function print(folder: string, png: string | undefined): Promise<void> {
  const device = await Device.create();
  setDevice(device);
  const changes: Change[] = [...KINDS.map((quantize) => ({ quantize })), ...CACHES.map((cacheDType) => ({ cacheDType }))]; // prettier-ignore
  const { errors, pictures } = await compare(folder, device, changes, true);
  const rows = errors.map((e) => [
    e.change.quantize ?? "bf16",
    e.change.cacheDType ?? "f32",
    ...[e.textKl, e.codesKl].map((v) => v.toExponential(2)),
    ...[e.textTop1, e.codesTop1, e.drawnSame].map((v) => `${(100 * v).toFixed(1)} %`),
    e.psnr.toFixed(1),
    (e.weightBytes / e.bf16Bytes).toFixed(3),
  ]);
  const head = ["weights", "cache", "KL text", "KL codes", "top-1 text", "top-1 codes", "codes drawn alike", "PSNR dB", "weights / bf16"]; // prettier-ignore
  console.log(table(head, rows));
  for (const [kind, layers] of await layerErrors(folder, device, PROMPTS, KINDS))
    console.log(`\nrelative error of each layer's output in ${kind}, in percent\n${layerTable(layers)}`);
  if (png !== undefined) {
    await writeFileAtomic(png, await encodePng(sideBySide(pictures)));
    console.log(
      `\n${png}: a prompt in each row; bf16, ${KINDS.join(", ")}, and caches of ${CACHES.join(", ")} from left to right`,
    );
  }
  device.destroy();
}

if (process.argv[1]?.endsWith("quantization.ts")) {
  const [model = "shapes", png, ...rest] = process.argv.slice(2);
  if (rest.length > 0 || [model, png].some((given) => given?.startsWith("-"))) {
    console.error("usage: node scripts/run.mjs bench/quantization.ts FOLDER [PNG]");
    process.exit(2);
  }
  await print(shippedModel(model) ?? model, png);
}
