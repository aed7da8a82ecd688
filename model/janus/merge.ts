/** A model with adapters added to its weights. */
import { noGrad, scope } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { castInto, countNonFinite, stack } from "../../kernels/index.ts";
import type { FileSource } from "../io/bytes.ts";
import { CheckpointError, ConfigError } from "../io/errors.ts";
import { loraLayersOf, mergeAdapters } from "../nn/lora.ts";
import { load } from "../nn/state_file.ts";
import type { Stateful } from "../nn/state_file.ts";
import { loadAdapter } from "./adapters.ts";
import { EMA_FILE, openCheckpoint } from "./checkpoint/checkpoint.ts";
import type { JanusConfig } from "./config.ts";
import type { JanusForConditionalGeneration } from "./janus.ts";
import { loadModel } from "./load.ts";
import type { LoadOptions } from "./load.ts";
import { readUnused } from "./save.ts";
import type { SaveOptions } from "./save.ts";

export interface MergeOptions extends Omit<LoadOptions, "quantize" | "quantizeHead"> {
  readonly adapters: readonly { readonly source: FileSource; readonly weight: number }[];
  /** Take the moving averages that a run has saved beside its adapter. Default: false. */
  readonly ema?: boolean;
}

export interface MergedModel {
  readonly model: JanusForConditionalGeneration;
  readonly config: JanusConfig;
  /** For `saveModel`: tensors of the checkpoint that the model does not read. */
  readonly unused: NonNullable<SaveOptions["unused"]>;
}

/** Loads a model and adds adapters to its weights, each weight rounded once per adapter set. Throws what `loadModel` and `loadAdapter` throw. */
export async function loadMerged(
  source: FileSource,
  { adapters, ema = false, ...options }: MergeOptions,
): Promise<MergedModel> {
  const checkpoint = await openCheckpoint(source);
  try {
    checkpoint.requireUnquantized("merge");
    checkpoint.requireWhole("merge");
    const unused = await readUnused(checkpoint);
    const model = await loadModel(checkpoint, options);
    try {
      for (const [i, { source: from, weight }] of adapters.entries()) {
        const name = `adapter-${i + 1}`;
        await loadAdapter(model, from, { name, weight });
        if (ema) await takeAverages(model, from, name);
      }
      const layers = [...loraLayersOf(model)].map(([path, { base }]) => [path, base] as const);
      mergeAdapters(model);
      await requireFinite(layers.map(([path, { weight }]) => [`${path}.weight`, weight]));
    } catch (error) {
      model.dispose();
      throw error;
    }
    return { model, config: checkpoint.config, unused };
  } finally {
    await checkpoint.close();
  }
}

/** Throws `CheckpointError` for merged weights beyond the range of their dtype. */
async function requireFinite(weights: readonly (readonly [string, Tensor])[]): Promise<void> {
  const counts = scope(() => stack(weights.map(([, weight]) => countNonFinite(weight))));
  try {
    const bad = (await counts.data()).findIndex((count) => count > 0);
    if (bad >= 0)
      throw new CheckpointError(
        `merge: weights must be finite with the adapters; got ${weights[bad]![0]}, which is not in ${weights[bad]![1].dtype}. Lower the weights of the adapters, or merge with dtype f32.`,
      );
  } finally {
    counts.dispose();
  }
}

/** Puts the averages of a run in the place of an adapter's weights. */
async function takeAverages(model: JanusForConditionalGeneration, source: FileSource, name: string): Promise<void> {
  if (!(await source.list()).includes(EMA_FILE))
    throw new ConfigError(
      `${source.name}: averages must be in ${EMA_FILE}; got no such file. Train with ema, or leave --ema out.`,
    );
  const own = new Map<string, Tensor>();
  for (const [path, layer] of loraLayersOf(model))
    for (const part of ["lora_A", "lora_B"] as const) {
      const module = layer[part].get(name);
      if (module) own.set(`${path}.${part}.default.weight`, module.weight);
    }
  const holder: Stateful = {
    stateDict: () => Object.fromEntries(own),
    loadStateDict: async (state) => {
      const missing = [...own.keys()].filter((key) => !state[key]);
      if (missing.length) throw new ConfigError(`${source.name}/${EMA_FILE}: it must have the averages of the adapter; got no ${missing[0]}. Save it again.`); // prettier-ignore
      noGrad(() => scope(() => own.forEach((tensor, key) => castInto(tensor, state[key]!))));
    },
  };
  const file = await source.open(EMA_FILE);
  try {
    await load(holder, file);
  } finally {
    await file.close?.();
  }
}
