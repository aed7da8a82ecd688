/** Training of adapters instead of weights: which layers get one, and what of the model trains then. */
import { philox, seedWords, withDraws } from "../engine/index.ts";
import type { Device } from "../engine/index.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { addAdapter, isTarget, linearLayersOf, linearSize, loraLayersOf } from "../model/nn/lora.ts";
import type { LoraOptions } from "../model/nn/lora.ts";
import type { Parameter } from "../model/nn/module.ts";
import { TrainConfigError } from "./config.ts";
import type { LoraConfig, TrainConfig } from "./config.ts";
import { TRAINED, setStage } from "./stages.ts";

/** Name of the adapter that trains. */
export const TRAINED_ADAPTER = "default";
/** Its logits are never stored whole, so that an update of its weight would have to be: no adapter can be on it. */
const TEXT_HEAD = "lm_head";

/** Paths of the layers that get an adapter. Throws `TrainConfigError` for a target that means none. */
function targetsOf(model: JanusForConditionalGeneration, { stage, lora }: Targets): string[] {
  const all = [...linearLayersOf(model)].map(([path]) => path);
  const own = all.filter((path) => path !== TEXT_HEAD && TRAINED[stage].some((prefix) => path.startsWith(prefix)));
  if (!lora.targets) return own;
  for (const target of lora.targets)
    if (!own.some((path) => isTarget(path, target))) {
      const other = all.find((path) => isTarget(path, target));
      const why =
        other === TEXT_HEAD
          ? "it means the text head, which cannot have an adapter"
          : other
            ? `stage ${stage} does not train ${other}, another stage does`
            : `it means no linear layer; one is ${own[0]}`;
      throw new TrainConfigError(`lora.targets: every target must mean a layer that trains; got "${target}": ${why}`);
    }
  return own.filter((path) => lora.targets!.some((target) => isTarget(path, target)));
}

/** Throws `TrainConfigError` for a rank above that of every update: the adapter would have more parameters than the weights, and be no better. */
function requireRank(model: JanusForConditionalGeneration, paths: readonly string[], rank: number): void {
  const layers = new Map(linearLayersOf(model));
  const most = Math.max(...paths.map((path) => Math.min(...linearSize(layers.get(path)!))));
  if (rank > most)
    throw new TrainConfigError(
      `lora.rank: must be at most ${most}, the smaller side of the largest weight that gets an adapter; got ${rank}. Lower it, or train all weights without lora.`,
    );
}

interface Targets {
  readonly stage: TrainConfig["stage"];
  readonly lora: LoraConfig;
}

/** Options of the layers of an adapter. */
export const loraOptions = ({ rank, alpha = rank, dropout, rslora }: LoraConfig): LoraOptions => ({
  rank,
  alpha,
  dropout,
  rslora,
});

/**
 * Puts an adapter on the layers of `model` and freezes everything else; returns its parameters by name. The first values of A depend on `seed`
 * alone. Throws `TrainConfigError` before anything changes.
 */
export function setAdapter(
  model: JanusForConditionalGeneration,
  config: Targets & { readonly seed: number },
): Map<string, Parameter> {
  const { quantize = null } = config.lora;
  if (quantize !== model.quantization)
    throw new TrainConfigError(
      `lora.quantize: the model must be quantised as the setting says; got ${model.quantization ?? "one that is not quantised"} for ${quantize ?? "none"}. Load it with quantizedBase(config).`,
    );
  const options = loraOptions(config.lora);
  const paths = targetsOf(model, config);
  requireRank(model, paths, options.rank);
  model.setRequiresGrad(false);
  const draws = new Map([[model.device, { seed: config.seed, calls: 0 }]]);
  withDraws(draws, () =>
    addAdapter(
      model,
      TRAINED_ADAPTER,
      paths.map((path) => [path, options] as const),
    ),
  );
  const trained = new Map<string, Parameter>();
  for (const [path, layer] of loraLayersOf(model))
    for (const part of ["lora_A", "lora_B"] as const) {
      const module = layer[part].get(TRAINED_ADAPTER);
      if (module) trained.set(`${path}.${part}.${TRAINED_ADAPTER}.weight`, module.weight);
    }
  return trained;
}

/** Options of the model whose layers get adapters: how they are quantised. The text head is not, for the loss reads its weight. */
export const quantizedBase = ({
  lora,
}: Pick<TrainConfig, "lora">): { quantize?: NonNullable<LoraConfig["quantize"]>; quantizeHead?: false } =>
  lora?.quantize ? { quantize: lora.quantize, quantizeHead: false } : {};

/** Prepares `model` for training by `config`: the parameters of its stage, or an adapter. Returns what trains, by name. */
export const setTrained = (
  model: JanusForConditionalGeneration,
  { stage, lora, seed }: Pick<TrainConfig, "stage" | "lora" | "seed">,
): Map<string, Parameter> => (lora ? setAdapter(model, { stage, lora, seed }) : setStage(model, stage));

/** Runs the forward and backward of a group of rows with random numbers of its own: those of the same seed, step and group are the same. */
export function microDraws(
  {
    device,
    seed,
    step,
    group,
  }: { readonly device: Device; readonly seed: number; readonly step: number; readonly group: number },
  run: () => void,
): void {
  const [low, high] = philox([step, group, 0, 0], seedWords(seed));
  withDraws(new Map([[device, { seed: (high & 0x1fffff) * 2 ** 32 + low, calls: 0 }]]), run);
}
