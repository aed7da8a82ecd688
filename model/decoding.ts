/**
 * What decoding text and decoding images share: prompts run through the model into a row of the cache each, and one step (the last tokens
 * in, the next ones out) that is captured once and replayed. Nothing of a step is on the host: lengths, positions and draws live on the device.
 */
import { NotFiniteError, capture, construct, empty, noGrad, scope, tensor } from "../engine/index.ts";
import type { Captured, Device, Tensor } from "../engine/index.ts";
import { NOT_FINITE_FLAG, advance, arange, cat, copyInto, full, indexSelect } from "../kernels/index.ts";
import type { CacheDType } from "../kernels/index.ts";
import { embedMixed } from "./causal.ts";
import type { CausalModel, PromptRow } from "./causal.ts";
import { KvCache } from "./llama.ts";
import type { CachedRows } from "./llama.ts";
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

/** Whether prompts may be read together: their tokens are the same then. Products of many rows have other bits on GPUs. */
export const readsTogether = (device: Device): boolean => device.capabilities.software;

/** Prompts are read together up to this many tokens, with padding: more take memory and no less time. */
const TOGETHER = 2048;

/** Runs of prompts that are read together: [first, end). Those with a prefix are read alone. */
function groupsOf(prompts: readonly PromptRow[], device: Device): readonly (readonly [number, number])[] {
  const groups: (readonly [number, number])[] = [];
  for (let from = 0, to: number; from < prompts.length; from = to) {
    let longest = prompts[from]!.ids.length;
    for (to = from + 1; to < prompts.length && readsTogether(device); to++) {
      longest = Math.max(longest, prompts[to]!.ids.length);
      if (prompts[from]!.prefix || prompts[to]!.prefix || longest * (to + 1 - from) > TOGETHER) break;
    }
    groups.push([from, to]);
  }
  return groups;
}

/** Prompts, padded on the right to `longest` tokens, which no token before them sees → embeddings [R, longest, hidden]. */
export function embedRows(model: CausalModel, prompts: readonly PromptRow[], longest: number): Tensor {
  if (prompts.length === 1) return embedRow(model, prompts[0]!);
  const { device } = model;
  const shape = [prompts.length, longest];
  const ids = new Int32Array(prompts.length * longest);
  const places = new Int32Array(ids.length).fill(-1);
  let next = 0;
  for (const [i, { ids: own, images }] of prompts.entries()) {
    ids.set(own, i * longest);
    if (images) for (const [t, id] of own.entries()) if (id === images.placeholder) places[i * longest + t] = next++;
  }
  const input = tensor(ids, { shape, device });
  const embeddings = prompts.flatMap(({ images }) => (images ? [images.embeddings] : []));
  if (embeddings.length === 0) return model.embedText(input);
  return embedMixed(model, input, cat(embeddings).unsqueeze(0), tensor(places, { shape, device }));
}

/** states [R, T, hidden] → those of the last token of each prompt, [R, hidden]. */
export function lastStates(states: Tensor, prompts: readonly Pick<PromptRow, "ids">[]): Tensor {
  const [rows, longest] = [states.dim(0), states.dim(1)];
  if (rows === 1) return states.select(1, -1);
  const places = Int32Array.from(prompts, ({ ids }, row) => row * longest + ids.length - 1);
  return indexSelect(states.reshape([rows * longest, -1]), 0, tensor(places, { device: states.device }));
}

/** The rows from `first` of a cache, as empty ones: who writes them sets their lengths. */
export function emptyRows(cache: CachedRows, first: number, rows: number): CachedRows {
  const place = (t: Tensor): Tensor => t.slice(0, first, first + rows);
  const length = full([1], 0, { dtype: "u32", device: cache.length.device });
  return { keys: cache.keys.map(place), values: cache.values.map(place), length };
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

const rowsOf = (order: readonly number[], prompt: number): number[] =>
  [...order.keys()].filter((row) => order[row] === prompt);

/** Runs a prompt for these rows of a cache. Returns its last hidden state [1, hidden]. */
function runAlone(
  model: CausalModel,
  prompt: PromptRow,
  { cache, rows, options }: { cache: KvCache; rows: readonly number[]; options: DecodingOptions },
): Tensor {
  if (cache.batch === 1) return runPrompt(model, prompt, cache).select(1, -1).clone();
  const { length } = prompt.ids;
  const own = cacheFor(model, 1, length, options);
  const states = runPrompt(model, prompt, own); // [1, T, hidden]
  for (const row of rows) cache.copyRow(row, own, 0, length);
  own.dispose();
  return states.select(1, -1).clone();
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
   * Runs the prompts one after the other, or several at a time where that gives the same bits (`readsTogether`): a row does not depend on the others.
   * Call it in `construct`, so that nothing is left when memory does not suffice.
   */
  static prefill(model: CausalModel, head: Head, batch: DecodingBatch, options: DecodingOptions = {}): TokenDecoder {
    const { device } = model;
    const { prompts, order, samples, room } = batch;
    const longest = Math.max(...prompts.map(({ ids }) => ids.length));
    const cache = cacheFor(model, order.length, longest + room, options);
    const hidden = noGrad(() =>
      scope(() => {
        // Prompts that continue in one row each are written directly into it, others through a separate cache.
        const isOwn = order.length === prompts.length && order.every((from, row) => from === row);
        const groups = groupsOf(prompts, device);
        const last = groups.map(([from, to]) =>
          scope(() => {
            const group = prompts.slice(from, to);
            if (group.length === 1) return runAlone(model, group[0]!, { cache, rows: rowsOf(order, from), options });
            const width = Math.max(...group.map(({ ids }) => ids.length));
            const own = isOwn ? cache : cacheFor(model, group.length, width, options);
            const positions = arange(0, width, 1, { device });
            const rows = emptyRows(own, isOwn ? from : 0, group.length);
            const states = model.hidden(embedRows(model, group, width), { positions, cache: rows });
            if (own !== cache) {
              for (const [i, { ids }] of group.entries())
                for (const row of rowsOf(order, from + i)) cache.copyRow(row, own, i, ids.length);
              own.dispose();
            }
            return lastStates(states, group).clone(); // [R, hidden]
          }),
        );
        if (groups.length < prompts.length) {
          const lengths = Uint32Array.from(order, (from) => prompts[from]!.ids.length);
          copyInto(cache.length, tensor(lengths, { dtype: "u32", device }));
        }
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
