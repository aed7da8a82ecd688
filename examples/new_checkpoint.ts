/**
 * Makes the folder of a model with fresh weights, of any of the sizes, to try things on before the published weights are at hand:
 * `npx tsx examples/new_checkpoint.ts OUT [--size tiny|1B|7B] [--seed N] [--layout hf|deepseek] [--texts FILE]`
 */
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { ArgumentError, Device, JanusError } from "../index.ts";
import { byteTokenizerFiles } from "../model/byte_tokenizer.ts";
import { countParts, unusedTensors } from "../model/janus/checkpoint/index.ts";
import type { Layout } from "../model/janus/checkpoint/index.ts";
import { JANUS_PRO_1B, JANUS_PRO_7B } from "../model/janus/config.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { JANUS_TINY, createModel, tinyConfig } from "../model/janus/create.ts";
import type { ConfigChanges } from "../model/janus/create.ts";
import { writeFolderAtomic } from "../model/node/index.ts";
import { saveModel } from "../model/janus/save.ts";
import type { StoredContent } from "../model/janus/save.ts";
import { Tokenizer } from "../model/janus/tokenizer.ts";

export const SIZES = { tiny: JANUS_TINY, "1B": JANUS_PRO_1B, "7B": JANUS_PRO_7B } as const;

export interface NewCheckpointOptions {
  readonly size?: keyof typeof SIZES;
  /** Sizes in which it differs from the tiny model. */
  readonly changes?: ConfigChanges;
  readonly seed?: number;
  readonly layout?: Layout;
  /** Texts from which the tokenizer learns merges; without them every byte is a token. */
  readonly texts?: readonly string[];
  readonly device?: Device;
  readonly onStep?: (line: string) => void;
}

/**
 * Writes bf16 weights, configs and a byte-level tokenizer to the new folder `out`, which appears when it is whole. Weights are made and kept
 * on the device and go to the disk 16 MiB at a time. Returns the bytes of the weight files.
 */
export async function newCheckpoint(out: string, options: NewCheckpointOptions = {}): Promise<number> {
  const {
    size = "tiny",
    changes = {},
    seed = 0,
    layout = "hf",
    texts = [],
    device,
    onStep = () => undefined,
  } = options;
  const sideFiles = byteTokenizerFiles({ texts, merges: texts.length ? 512 : 0 });
  // A tiny model has no rows without a token, so that it can only sample text.
  const vocabulary = new Tokenizer({ tokenizer: new TextDecoder().decode(sideFiles.get("tokenizer.json")) }).size;
  if (size !== "tiny" && options.changes)
    throw new ArgumentError(`sizes of the ${size} model cannot be changed; leave changes out`);
  const config =
    size === "tiny" ? tinyConfig({ ...changes, language: { vocabulary, ...changes.language } }) : SIZES[size];
  const bytes = 2 * Object.values(countParts(config)).reduce((sum, elements) => sum + elements, 0);
  let shown = 0;
  const onProgress = ({ bytes: done, totalBytes }: { bytes: number; totalBytes: number }): void => {
    const quarters = Math.floor((4 * done) / totalBytes);
    if (quarters > shown) onStep(`${25 * (shown = quarters)} % of ${(totalBytes / 1e9).toPrecision(3)} GB are written`);
  };
  // A folder that is in the way and a disk that is too full are found out before the work.
  await writeFolderAtomic(out, bytes, async (sink) => {
    const model = createModel(config, { seed, dtype: "bf16", ...(device && { device }) });
    try {
      const on = model.lm_head.weight.device;
      await on.sync();
      onStep(`${(model.parameterCount() / 1e6).toFixed(1)} M parameters are on ${on.name}`);
      await saveModel(model, config, sink, {
        layout,
        sideFiles,
        onProgress,
        unused: layout === "deepseek" ? neverRead(config) : new Map(),
      });
    } finally {
      model.dispose();
    }
  });
  return bytes;
}

/** Tensors of the published files that the model never reads, as zeros. */
function neverRead(config: JanusConfig): Map<string, StoredContent> {
  const content = (shape: readonly number[]): StoredContent => ({
    dtype: "bf16",
    shape,
    bytes: new Uint8Array(2 * shape.reduce((a, b) => a * b, 1)),
  });
  return new Map([...unusedTensors(config)].map(([name, shape]) => [name, content(shape)]));
}

function parse(): { out: string; options: NewCheckpointOptions } {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      size: { type: "string", default: "tiny" },
      seed: { type: "string", default: "0" },
      layout: { type: "string", default: "hf" },
      texts: { type: "string" },
    },
  });
  const { size, layout, texts } = values;
  const [out] = positionals;
  if (out === undefined || positionals.length > 1) throw new ArgumentError("name one new folder to write to");
  if (!(size === "tiny" || size === "1B" || size === "7B"))
    throw new ArgumentError(`--size ${size}; one of ${Object.keys(SIZES).join(", ")}`);
  if (!(layout === "hf" || layout === "deepseek")) throw new ArgumentError(`--layout ${layout}; one of hf, deepseek`);
  const options = {
    size,
    layout,
    seed: Number(values.seed),
    ...(texts && { texts: [readFileSync(texts, "utf8")] }),
  } as const;
  return { out, options };
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    const { out, options } = parse();
    const started = performance.now();
    const seconds = (): string => ((performance.now() - started) / 1000).toFixed(1);
    const device = await Device.create();
    const bytes = await newCheckpoint(out, { ...options, onStep: (line) => console.log(`${seconds()} s  ${line}`) });
    console.log(`${seconds()} s  ${out}: ${(bytes / 1e9).toPrecision(3)} GB`);
    device.destroy();
  } catch (error) {
    if (!(error instanceof JanusError || (error instanceof Error && "code" in error))) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}
