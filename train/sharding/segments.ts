/**
 * Forward and backward of packed rows, a layer of the Llama at a time, so that weights can come before a layer and gradients can go after
 * it: between layers the program waits for messages. Only the inputs of layers are kept, and each layer is recomputed in backward, as with
 * `recompute`. The bits are those of `taskLosses` and `backward`.
 */
import { backward, noGrad, scope, withLabel } from "../../engine/index.ts";
import type { DType, Tensor } from "../../engine/index.ts";
import type { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import type { Parameter } from "../../model/nn/module.ts";
import { embedRows, lossesOf, sequenceOf } from "../loss.ts";
import type { TaskLosses } from "../loss.ts";
import type { PackedRows } from "../samples.ts";

/** The trained parameters that are used together: those of each layer, and last all others, which are used before and after the layers. */
export function unitsOf(
  model: JanusForConditionalGeneration,
  trained: ReadonlyMap<string, Parameter>,
): readonly (readonly Parameter[])[] {
  const all = new Set(trained.values());
  const layers = model.model.language_model.layers.map((layer) => layer.parameters().filter((one) => all.has(one)));
  const inLayers = new Set(layers.flat());
  return [...layers, [...all].filter((one) => !inLayers.has(one))];
}

/** What happens between the layers. Units are numbered as `unitsOf` lists them. */
export interface Between {
  /** Asks for the weights of a unit, which are used next. */
  ask(unit: number): void;
  /** Puts the weights of a unit on the device. */
  gather(unit: number): Promise<void>;
  /** Frees them. */
  evict(unit: number): void;
  /** Before backward of a unit: its gradients so far. */
  restoreGradients(unit: number): Promise<void>;
  /** After backward of a unit. */
  takeGradients(unit: number): Promise<void>;
}

/** A group of rows, and what is made of its losses. */
export interface SegmentedGroup {
  readonly rows: PackedRows;
  readonly imageSize: number;
  /** From the losses by task to what backward starts from; null if nothing is trained. */
  readonly lossOf: (losses: TaskLosses) => Tensor | null;
}

/**
 * Runs `group`; with null only the messages are passed, for a rank that has fewer rows than others. Losses are handed to `lossOf` alone. If it throws,
 * gradients may be left.
 */
export async function runSegments(
  model: JanusForConditionalGeneration,
  group: SegmentedGroup | null,
  between: Between,
): Promise<void> {
  const count = model.model.language_model.layers.length;
  const rest = count;
  await between.gather(rest);
  await between.restoreGradients(rest);
  const walk = group ? new Walk(model, group) : null;
  try {
    walk?.embed();
    for (let i = 0; i < count; i++) {
      between.ask(i + 1 < count ? i + 1 : -1);
      await between.gather(i);
      walk?.forward(i);
      if (i + 1 < count) between.evict(i); // backward begins with the last
      await model.device.throttle();
    }
    walk?.losses();
    for (let i = count - 1; i >= 0; i--) {
      between.ask(i - 1);
      if (i + 1 < count) await between.gather(i);
      await between.restoreGradients(i);
      walk?.backward(i);
      between.evict(i);
      await between.takeGradients(i);
    }
    walk?.embedBackward();
    between.evict(rest);
    await between.takeGradients(rest);
  } finally {
    walk?.dispose();
  }
}

/** The tensors between the layers of one group of rows. */
class Walk {
  private readonly model: JanusForConditionalGeneration;
  private readonly group: SegmentedGroup;
  private readonly sequence: ReturnType<typeof sequenceOf> & { readonly inner?: DType };
  /** Inputs of the layers, and the result of the last. The first one is on the tape of the embeddings. */
  private readonly hidden: Tensor[] = [];
  /** Gradient of the input of the layer that backward came to. */
  private gradient: Tensor | null = null;

  constructor(model: JanusForConditionalGeneration, group: SegmentedGroup) {
    this.model = model;
    this.group = group;
    const { inner } = model.model.language_model;
    const { positions, documents } = sequenceOf(group.rows, model.device);
    this.sequence = { positions: positions.keep(), documents: documents.keep(), ...(inner && { inner }) };
  }

  embed(): void {
    const { rows, imageSize } = this.group;
    this.hidden.push(scope(() => embedRows(this.model, rows, imageSize)).keep());
  }

  forward(layer: number): void {
    const input = this.hidden[layer]!;
    this.hidden.push(
      noGrad(() => scope(() => this.layers[layer]!.call(input.detach(), this.sequence).detach())).keep(),
    );
  }

  /** Losses, and backward through the heads and the last norm. */
  losses(): void {
    const { norm } = this.model.model.language_model;
    const input = this.leaf(this.hidden.pop()!);
    scope(() => {
      const loss = this.group.lossOf(lossesOf(this.model, norm.call(input), this.group.rows));
      if (loss?.requiresGrad) backward(loss);
    });
    this.takeGradient(input);
  }

  backward(layer: number): void {
    const stored = this.hidden[layer]!;
    if (layer > 0) this.hidden.pop();
    const { gradient } = this;
    if (!gradient) {
      if (layer > 0) stored.dispose();
      return;
    }
    const input = this.leaf(layer > 0 ? stored : stored.detach());
    // Labelled as a recomputation in backward is, which MFU does not count.
    const again = (): Tensor => withLabel("backward", () => withLabel("checkpoint", () => this.layers[layer]!.call(input, this.sequence), ":")); // prettier-ignore
    scope(() => backward(again(), gradient));
    gradient.dispose();
    this.takeGradient(input);
  }

  embedBackward(): void {
    const [embeddings] = this.hidden;
    const { gradient } = this;
    if (gradient && embeddings!.requiresGrad) scope(() => backward(embeddings!, gradient));
  }

  dispose(): void {
    for (const each of [...this.hidden, this.gradient, this.sequence.positions, this.sequence.documents])
      each?.dispose();
  }

  private get layers(): JanusForConditionalGeneration["model"]["language_model"]["layers"] {
    return this.model.model.language_model.layers;
  }

  private leaf(t: Tensor): Tensor {
    const kept = t.keep();
    kept.requiresGrad = true;
    return kept;
  }

  private takeGradient(input: Tensor): void {
    this.gradient = input.grad;
    input.grad = null;
    input.dispose();
  }
}
