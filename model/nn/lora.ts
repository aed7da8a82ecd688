/**
 * Low-rank adapters (LoRA, Hu et al. 2021) on linear layers: which layers, the layers themselves, switching, merging. A layer with adapters takes the
 * place of the linear layer and keeps the names of its weights, so a model with adapters has all paths that it had before, and those of the adapters.
 * The files of adapters are model/janus/adapters.ts.
 */
import { ArgumentError, construct, knownOptions, noGrad, scope, shown } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import * as F from "../../kernels/index.ts";
import { ModuleDict } from "./containers.ts";
import { Linear } from "./layers.ts";
import type { LayerOptions } from "./layers.ts";
import { Module, requirePositive } from "./module.ts";
import type { AnyModule, Parameter } from "./module.ts";
import { QuantizedLinear } from "./quantized_linear.ts";
import type { AnyLinear } from "./quantized_linear.ts";

export interface LoraOptions {
  /** Rank of the update, at most the smaller side of a weight to be of use. */
  readonly rank: number;
  /** The update is scaled by alpha / rank; with `rslora` by alpha / √rank. Default: rank. */
  readonly alpha?: number;
  /** In training, part of the inputs of A that are 0. Default: 0. */
  readonly dropout?: number;
  /** Rank-stabilised scale (Kalajdzievski 2023). Default: false. */
  readonly rslora?: boolean;
  /** False leaves the values of A and B undefined, for adapters that are loaded next. Default: A uniform as in a new `Linear`, B zeros. */
  readonly init?: boolean;
}

const LORA_OPTIONS = ["rank", "alpha", "dropout", "rslora", "init"] as const satisfies readonly (keyof LoraOptions)[];

/**
 * Number of changes to adapters of any model: added, removed, another weight. A captured program computes with the adapters that were there when it was
 * captured; who keeps one captures it again when this number has changed.
 */
export const adapterChanges = (): number => changes;
let changes = 0;

/** One adapter of a layer. */
interface Adapter {
  readonly options: Required<LoraOptions>;
  /** Factor of the update: 0 switches the adapter off. */
  readonly weight: number;
}

const scaleOf = ({ options: { alpha, rank, rslora }, weight }: Adapter): number =>
  (weight * alpha) / (rslora ? Math.sqrt(rank) : rank);

/**
 * y = base(x) + Σ over adapters of weight · scale · B (A · dropout(x)): x [..., inFeatures] → [..., outFeatures], of the base's dtype. A [rank,
 * inFeatures] and B [outFeatures, rank] are f32, at `lora_A.NAME.weight` and `lora_B.NAME.weight`. The base may be quantised. With B = 0 the result has
 * the base's bits.
 */
export class LoraLinear extends Module {
  /** Parameters of the base under their names: `weight` or `qweight` and `scales`, and `bias`. */
  readonly bias: Parameter | null;
  readonly lora_A = new ModuleDict<Linear>();
  readonly lora_B = new ModuleDict<Linear>();
  private readonly adapters: Record<string, Adapter> = {};
  // In a field of the search its parameters would have a second path.
  readonly #base: AnyLinear;

  constructor(base: AnyLinear) {
    super();
    requireBase(base);
    this.bias = base.bias;
    if (base instanceof QuantizedLinear) Object.assign(this, { qweight: base.qweight, scales: base.scales });
    else Object.assign(this, { weight: base.weight });
    this.#base = base;
    this.training = base.training;
  }

  /** The layer without adapters. */
  get base(): AnyLinear {
    return this.#base;
  }

  /** Names of the adapters, in the order in which they were added. */
  get names(): string[] {
    return Object.keys(this.adapters);
  }

  /** Adds an adapter whose update is 0, with weight 1. Throws `ArgumentError` for a name that is taken, and for options out of range. */
  addAdapter(name: string, options: LoraOptions): void {
    const checked = checkedOptions(options);
    const { rank, init } = checked;
    if (this.lora_A.has(name))
      throw new ArgumentError(`LoRA: names of adapters must be unique; got "${name}" twice. Choose another name.`);
    const [outFeatures, inFeatures] = sizeOf(this.#base);
    const placed: LayerOptions & { bias: boolean } = { device: deviceOf(this.#base), init, bias: false };
    construct(() => {
      const a = new Linear(inFeatures, rank, placed);
      const b = new Linear(rank, outFeatures, { ...placed, init: false });
      if (init) noGrad(() => F.fillInto(b.weight, 0));
      this.lora_A.set(name, a); // throws for what cannot be a name
      this.lora_B.set(name, b);
    });
    this.adapters[name] = { options: checked, weight: 1 };
    changes++;
  }

  /** Options of an adapter, with their defaults; null if there is none of that name. */
  optionsOf(name: string): Required<LoraOptions> | null {
    return this.adapters[name]?.options ?? null;
  }

  /** Factor of an adapter's update; null if there is none of that name. */
  weightOf(name: string): number | null {
    return this.adapters[name]?.weight ?? null;
  }

  /** Sets the factor of an adapter's update; 0 switches it off. */
  setWeight(name: string, weight: number): void {
    const adapter = this.adapters[name];
    if (!adapter) return;
    requireWeight("LoRA", name, weight);
    this.adapters[name] = { ...adapter, weight };
    changes++;
  }

  /** Frees the parameters of an adapter. */
  removeAdapter(name: string): void {
    for (const part of [this.lora_A, this.lora_B]) {
      part.get(name)?.dispose();
      part.delete(name);
    }
    delete this.adapters[name];
    changes++;
  }

  forward(x: Tensor): Tensor {
    let y = this.#base.forward(x);
    for (const [name, adapter] of Object.entries(this.adapters)) {
      if (adapter.weight === 0) continue;
      const { dropout } = adapter.options;
      const kept = this.training && dropout > 0 ? F.dropout(x, dropout) : x;
      const inner = F.linear(kept, this.lora_A.get(name)!.weight).mul(scaleOf(adapter));
      y = F.linear(inner, this.lora_B.get(name)!.weight, null, { residual: y, dtype: y.dtype });
    }
    return y;
  }

  /** Adds the updates of all adapters to the base's weight, rounded once; the adapters stay. Throws `ArgumentError` if the base is quantised. */
  mergeInto(): void {
    const base = this.#base;
    if (base instanceof QuantizedLinear)
      throw new ArgumentError(
        `LoRA: adapters must be merged into weights that are not quantised; got a base in ${base.kind}. Load the model without quantize.`,
      );
    noGrad(() =>
      scope(() => {
        let merged: Tensor = base.weight.detach();
        for (const [name, adapter] of Object.entries(this.adapters)) {
          if (adapter.weight === 0) continue;
          const b = this.lora_B.get(name)!.weight.mul(scaleOf(adapter)); // [N, r]
          const a = this.lora_A.get(name)!.weight.permute([1, 0]); // [K, r]
          merged = F.linear(b, a, null, { residual: merged, dtype: "f32" });
        }
        if (merged.storage !== base.weight.storage) F.castInto(base.weight, merged);
      }),
    );
  }
}

/** Throws `ArgumentError` in the name of `op` for a factor that is not a finite f32. */
export function requireWeight(op: string, name: string, weight: unknown): void {
  if (typeof weight !== "number" || !Number.isFinite(Math.fround(weight)))
    throw new ArgumentError(
      `${op}: the weight of an adapter must be a finite number; got ${shown(weight)} for "${name}". Change it.`,
    );
}

function requireBase(base: unknown): asserts base is AnyLinear {
  if (!(base instanceof Linear) && !(base instanceof QuantizedLinear))
    throw new ArgumentError(
      `LoRA: adapters must be put on linear layers; got ${base instanceof Module ? base.constructor.name : shown(base)}. Choose other targets.`,
    );
  if (base.isHooked)
    throw new ArgumentError("LoRA: a layer must have no hooks; got one with hooks. Register them after the adapter.");
}

const sizeOf = (base: AnyLinear): readonly [outFeatures: number, inFeatures: number] =>
  base instanceof QuantizedLinear ? [base.outFeatures, base.inFeatures] : [base.weight.dim(0), base.weight.dim(1)];

/** Sizes of a linear layer, with or without adapters. */
export const linearSize = (layer: AnyLinear | LoraLinear): readonly [outFeatures: number, inFeatures: number] =>
  sizeOf(layer instanceof LoraLinear ? layer.base : layer);

const deviceOf = (base: AnyLinear): NonNullable<LayerOptions["device"]> =>
  (base instanceof QuantizedLinear ? base.qweight : base.weight).device;

function checkedOptions(options: LoraOptions): Required<LoraOptions> {
  knownOptions("LoRA", options, LORA_OPTIONS);
  const { rank, alpha = rank, dropout = 0, rslora = false, init = true } = options;
  requirePositive("LoRA", { rank });
  if (!(alpha > 0 && Number.isFinite(Math.fround(alpha))))
    throw new ArgumentError(`LoRA: alpha must be a finite number above 0; got ${shown(alpha)}. Change it.`);
  if (!(dropout >= 0 && dropout < 1))
    throw new ArgumentError(`LoRA: dropout must be from 0 to below 1; got ${shown(dropout)}. Change it.`);
  return { rank, alpha, dropout, rslora, init };
}

/** The linear layers below a module by path, with and without adapters. */
export function* linearLayersOf(module: AnyModule, prefix = ""): Generator<[string, AnyLinear | LoraLinear]> {
  for (const [name, child] of module.children())
    if (child instanceof Linear || child instanceof QuantizedLinear || child instanceof LoraLinear)
      yield [prefix + name, child];
    else yield* linearLayersOf(child, `${prefix}${name}.`);
}

/** The layers with adapters below a module by path. */
export function* loraLayersOf(module: AnyModule): Generator<[string, LoraLinear]> {
  for (const [path, layer] of linearLayersOf(module)) if (layer instanceof LoraLinear) yield [path, layer];
}

/**
 * Whether a path is meant by a pattern: its end, from a dot on, in which `*` stands for any characters. `q_proj` and `self_attn.*` mean such layers
 * anywhere, `model.aligner.*` those of one part.
 */
export function isTarget(path: string, pattern: string): boolean {
  const escaped = pattern.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`(^|\\.)${escaped.join(".*")}$`).test(path);
}

/**
 * Puts an adapter on the linear layers at `paths` below `root`, each with its options. Nothing changes if it throws. New values of A come from the
 * device's draws, in the order of the paths.
 */
export function addAdapter(root: AnyModule, name: string, paths: Iterable<readonly [string, LoraOptions]>): void {
  const layers = new Map(linearLayersOf(root));
  const wanted = [...paths];
  for (const [i, [path, options]] of wanted.entries()) {
    checkedOptions(options);
    if (wanted.findIndex(([other]) => other === path) < i)
      throw new ArgumentError(`addAdapter: every path must come once; got "${path}" twice. Leave one out.`);
    const layer = layers.get(path);
    if (!layer)
      throw new ArgumentError(
        `addAdapter: every path must be one of a linear layer; got "${path}". Use a path like ${[...layers.keys()][0] ?? "layers.0"}.`,
      );
    if (layer instanceof LoraLinear && layer.names.includes(name))
      throw new ArgumentError(
        `addAdapter: names of adapters must be unique; got "${name}" twice. Choose another name.`,
      );
    if (!(layer instanceof LoraLinear)) requireBase(layer);
  }
  for (const [path, options] of wanted) {
    const layer = layers.get(path)!;
    const adapted = layer instanceof LoraLinear ? layer : new LoraLinear(layer);
    adapted.addAdapter(name, options);
    if (adapted !== layer) root.replace(path, adapted);
  }
}

/** Names of the adapters below a module. */
export const adapterNames = (root: AnyModule): string[] => [
  ...new Set([...loraLayersOf(root)].flatMap(([, layer]) => layer.names)),
];

/** Throws `ArgumentError` in the name of `op` for a name that no adapter has. */
function requireNames(op: string, root: AnyModule, wanted: readonly string[]): void {
  const names = adapterNames(root);
  for (const name of wanted)
    if (!names.includes(name))
      throw new ArgumentError(
        `${op}: every name must be one of an adapter of the model (${names.join(", ") || "none"}); got "${name}". Load it first.`,
      );
}

/**
 * Switches adapters: each of `weights` has that factor, all others 0. Takes effect with the next call; texts and images that are being made take the new
 * factors from their next token on. A program of your own keeps what it was captured with. Throws `ArgumentError` for a name that no layer has.
 */
export function setAdapters(root: AnyModule, weights: Readonly<Record<string, number>>): void {
  requireNames("setAdapters", root, Object.keys(weights));
  for (const [name, weight] of Object.entries(weights)) requireWeight("setAdapters", name, weight);
  for (const [, layer] of loraLayersOf(root)) for (const name of layer.names) layer.setWeight(name, weights[name] ?? 0);
}

/** Frees the adapter `name`, or all adapters, and puts plain layers back if they have none left. Throws `ArgumentError` for a name that no layer has. */
export function removeAdapters(root: AnyModule, name?: string): void {
  if (name !== undefined) requireNames("removeAdapters", root, [name]);
  const layers = [...loraLayersOf(root)]; // all of them, before any is replaced
  for (const [path, layer] of layers) {
    for (const own of layer.names) if (name === undefined || own === name) layer.removeAdapter(own);
    if (layer.names.length === 0) root.replace(path, layer.base);
  }
}

/**
 * Adds the updates of all adapters to the weights, and removes the adapters. Throws `ArgumentError`, with nothing changed, if a base is quantised, or
 * tied to another layer, which the update would change too.
 */
export function mergeAdapters(root: AnyModule): void {
  const layers = [...loraLayersOf(root)];
  const quantized = layers.find(([, { base }]) => base instanceof QuantizedLinear);
  if (quantized)
    throw new ArgumentError(
      `mergeAdapters: adapters must be merged into weights that are not quantised; got a quantised ${quantized[0]}. Load the model without quantize.`,
    );
  const paths = Object.entries(root.stateDict());
  for (const [path, { base }] of layers) {
    const other = paths.find(([key, one]) => one === base.weight && key !== `${path}.weight`);
    if (other)
      throw new ArgumentError(
        `mergeAdapters: a weight that is merged must belong to one layer; got ${path}.weight, tied to ${other[0]}. Untie them, or keep the adapter apart.`,
      );
  }
  for (const [, layer] of layers) layer.mergeInto();
  removeAdapters(root);
}
