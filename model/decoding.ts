/**
 * What decoding text and decoding images share: prompts run through the model into a row of the cache each, and one step (the last tokens
 * in, the next ones out) that is captured once and replayed. Nothing of a step is on the host: lengths, positions and draws live on the device.
 */
import { NotFiniteError, capture, construct, empty, noGrad, scope, tensor } from "../engine/index.ts";
import type { Captured, Device, Tensor } from "../engine/index.ts";
import { NOT_FINITE_FLAG, advance, arange, cat, copyInto, indexSelect } from "../kernels/index.ts";
import type { CacheDType } from "../kernels/index.ts";
import { embedMixed } from "./causal.ts";
import type { CausalModel, PromptRow } from "./causal.ts";
import { KvCache } from "./llama.ts";
import { adapterChanges } from "./nn/lora.ts";

export interface DecodingOptions {
  /** Dtype of keys and values (default: that of the model, f32 if it was loaded without one). bf16, f16 and int8 need less memory and are less precise. */
  readonly cacheDType?: CacheDType;
  /** Run every step eagerly instead of replaying a captured one: slower, the same bits. */
  readonly eager?: boolean;
  /** Compare the captured step bit for bit with a separate run before it is used. */
  readonly verify?: boolean;
  readonly signal?: AbortSignal;
}

/** True for a token of a row whose logits are not finite. Its embedding is zero: it is no token. */
export const isFlagged = (token: number): boolean => token >= NOT_FINITE_FLAG;

/** A token that is not finite: the op that sampled it, the name of its head, where it is and its number. */
interface FlaggedToken {
  readonly op: string;
  readonly head: string;
  readonly place: string;
  readonly step: number;
}
type NamedPart = readonly [part: string, values: Tensor];

/** The error of a flagged token. Which part is to blame is looked up only now, from what came before the head; if all of it is finite, it is the head. */
export async function notFiniteError(
  { op, head, place, step }: FlaggedToken,
  before: readonly NamedPart[],
): Promise<NotFiniteError> {
  for (const [part, values] of before)
    if (!(await values.data()).every(Number.isFinite)) return new NotFiniteError(op, part, place, step);
  return new NotFiniteError(op, head, place, step);
}

/** Converts hidden states to tokens, and tokens to inputs. Owned by the decoder that it is passed to. */
export interface Head {
  /**
   * hidden [R, hidden] (after the last norm), step u32 [1] → the next tokens, u32 [N], with `NOT_FINITE_FLAG` in those of rows that are not
   * finite. May write them into `into`, u32 [N], and return that. May change its own tensors.
   */
  sample(hidden: Tensor, step: Tensor, into: Tensor): Tensor;
  /** tokens u32 [N] → embeddings [R, 1, hidden]. */
  embed(tokens: Tensor): Tensor;
  dispose(): void;
}

/** Model and device that a decoder uses. */
export interface DecodingBatch {
  readonly prompts: readonly PromptRow[];
  /** Index of the prompt that each row of the cache continues; several rows may share one. */
  readonly order: readonly number[];
  /** N: tokens of a step. */
  readonly samples: number;
  /** Tokens that are to follow. */
  readonly room: number;
}

/** A cache for `rows` rows of `capacity` positions of a model. */
export function cacheFor(
  model: CausalModel,
  rows: number,
  capacity: number,
  options: Pick<DecodingOptions, "cacheDType">,
): KvCache {
  const dtype = options.cacheDType ?? model.cacheDType ?? "f32";
  return new KvCache(model.language, rows, capacity, { device: model.device, dtype });
}

/** ids with image embeddings in their places → [1, T, hidden]. */
export function embedRow(model: CausalModel, { ids, images }: PromptRow): Tensor {
  const { device } = model;
  const shape = [1, ids.length];
  const input = tensor(Int32Array.from(ids), { shape, device });
  if (!images) return model.embedText(input);
  let next = 0;
  const places = Int32Array.from(ids, (id) => (id === images.placeholder ? next++ : -1));
  return embedMixed(model, input, images.embeddings.unsqueeze(0), tensor(places, { shape, device }));
}

/** Runs a prompt into row 0 of an empty cache, behind its prefix if it has one. Returns the hidden states [1, T, hidden] of what it ran. */
export function runPrompt(model: CausalModel, { ids, images, prefix }: PromptRow, cache: KvCache): Tensor {
  const { device } = model;
  const past = prefix?.length ?? 0;
  if (prefix) cache.copyRow(0, prefix.cache(), 0, past);
  const rest = prefix ? { ids: ids.slice(past) } : { ids, ...(images && { images }) };
  const positions = arange(past, ids.length, 1, { device });
  const states = model.hidden(embedRow(model, rest), { positions, cache, past });
  advance(cache.length, ids.length - past);
  return states;
}

/** Keys and values of a prompt, for `Prefix.cache`. The caller disposes of the cache. */
export function prefillPrefix(
  model: CausalModel,
  prompt: PromptRow,
  options: Pick<DecodingOptions, "cacheDType"> = {},
): KvCache {
  return construct(() => {
    const cache = cacheFor(model, 1, prompt.ids.length, options);
    noGrad(() => scope(() => void runPrompt(model, prompt, cache)));
    return cache;
  });
}

/** Captured steps by key. A change of adapters drops them: they compute with the ones that were there. */
export class CapturedSteps<Key> {
  private readonly steps = new Map<Key, Captured<null>>();
  private adapters = adapterChanges();

  /** Replays the step of `key`, or runs and captures it if it is the first. */
  async run(
    key: Key,
    step: () => null,
    options: { readonly device: Device; readonly verify?: boolean },
  ): Promise<void> {
    if (this.adapters !== adapterChanges()) this.dispose();
    const known = this.steps.get(key);
    if (known) known.replay();
    else this.steps.set(key, await capture(step, options));
  }

  dispose(): void {
    for (const step of this.steps.values()) step.dispose();
    this.steps.clear();
    this.adapters = adapterChanges();
  }
}

/** In u32, which wraps around. */
const MINUS_ONE = 2 ** 32 - 1;

/** Prompts in a cache, and a step that continues from there. */
export class TokenDecoder {
  /** u32 [N]: the tokens sampled last, flagged if not finite. */
  readonly tokens: Tensor;
  readonly device: Device;
  private readonly model: CausalModel;
  private readonly head: Head;
  private readonly cache: KvCache;
  /** [R, hidden] of each row's last position: of the prompts, then the result of the step that ran last. */
  private hidden: Tensor;
  /** u32 [1]: tokens sampled before. */
  private readonly position: Tensor;
  /** u32: the lengths of the cache, then the position: one launch advances them. */
  private readonly counters: Tensor;
  private readonly options: DecodingOptions;
  private captured: { readonly step: Captured<Tensor>; readonly adapters: number } | null = null;

  private constructor(
    model: CausalModel,
    head: Head,
    samples: number,
    cache: KvCache,
    hidden: Tensor,
    options: DecodingOptions,
  ) {
    const { device } = cache.length;
    this.model = model;
    this.head = head;
    this.device = device;
    this.cache = cache;
    this.hidden = hidden;
    this.options = options;
    this.tokens = empty([samples], { dtype: "u32", device }).keep();
    this.counters = cache.counters;
    this.position = cache.position;
  }

  /**
   * Runs the prompts one after the other: a row computes the same bits whatever the other rows are, and none is padded.
   * Call it in `construct`, so that nothing is left when memory does not suffice.
   */
  static prefill(model: CausalModel, head: Head, batch: DecodingBatch, options: DecodingOptions = {}): TokenDecoder {
    const { device } = model;
    const { prompts, order, samples, room } = batch;
    const longest = Math.max(...prompts.map(({ ids }) => ids.length));
    const cache = cacheFor(model, order.length, longest + room, options);
    const hidden = noGrad(() =>
      scope(() => {
        const last = prompts.map((prompt, p) =>
          scope(() => {
            const length = prompt.ids.length;
            // A single prompt is written directly into its cache, several prompts through a separate cache each.
            const own = order.length === 1 ? cache : cacheFor(model, 1, length, options);
            const states = runPrompt(model, prompt, own); // [1, T, hidden]
            if (own !== cache) {
              for (const [row, from] of order.entries()) if (from === p) cache.copyRow(row, own, 0, length);
              own.dispose();
            }
            return states.select(1, -1).clone(); // [1, hidden]
          }),
        );
        return indexSelect(cat(last), 0, tensor(Int32Array.from(order), { device }));
      }),
    );
    return new TokenDecoder(model, head, samples, cache, hidden.keep(), options);
  }

  /** Samples the first tokens. */
  begin(): void {
    noGrad(() => scope(() => this.draw(this.hidden)));
  }

  /**
   * The error of a flagged token: of its inputs, then of the hidden states, whose caches keep what is not finite for the steps that the device
   * is ahead.
   */
  notFinite(at: FlaggedToken, inputs: readonly NamedPart[] = []): Promise<NotFiniteError> {
    return notFiniteError(at, [...inputs, ["language model (hidden states)", this.hidden]]);
  }

  /** Feeds the last tokens and samples the next ones. Returns once the work is enqueued on the device. */
  async next(): Promise<void> {
    await this.several(1);
  }

  /** `next`, up to `most` times in one submit. Returns how many; the first step, the first after a change of adapters, and eager ones come alone. */
  async several(most: number): Promise<number> {
    if (this.captured?.adapters !== adapterChanges()) return this.first().then(() => 1);
    this.captured.step.replay(most);
    return most;
  }

  private async first(): Promise<void> {
    const before = this.hidden;
    if (this.options.eager) this.hidden = this.feed().keep();
    else {
      const { device, options } = this;
      const [old, adapters] = [this.captured, adapterChanges()];
      const step = await capture(() => this.feed(), { device, verify: options.verify ?? false });
      this.captured = { step, adapters };
      this.hidden = step.result;
      old?.step.dispose();
    }
    before.dispose();
  }

  /** One step, for counting and timing. */
  step(): void {
    this.feed().dispose();
  }

  /** The step that is captured. Returns the hidden states [R, hidden]. */
  private feed(): Tensor {
    const { cache, head, counters } = this;
    return noGrad(() =>
      scope(() => {
        const rows = cache.batch;
        const states = this.model
          .hidden(head.embed(this.tokens), { positions: cache.length.reshape([rows, 1]), cache, decode: true })
          .reshape([rows, -1]);
        advance(counters, 1);
        this.draw(states);
        return states;
      }),
    );
  }

  private draw(hidden: Tensor): void {
    const drawn = this.head.sample(hidden, this.position, this.tokens);
    if (drawn !== this.tokens) copyInto(this.tokens, drawn);
  }

  /** Takes the last step back: the next one is the same again. For timing, where so many steps would fill the cache. */
  stepBack(): void {
    advance(this.counters, MINUS_ONE);
  }

  dispose(): void {
    this.captured?.step.dispose();
    this.head.dispose();
    this.cache.dispose();
    for (const t of [this.tokens, this.hidden]) t.dispose();
  }
}

/** Steps that the host may be ahead of the device: none on a software device, which computes on the host's own cores. */
export const stepsAhead = (device: Device, wanted: number): number => (device.capabilities.software ? 0 : wanted);
