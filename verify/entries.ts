/**
 * The meaning of each entry of a golden folder, and its recomputation: one row of `janus verify` each. Shapes and
 * counts come from the files. Source: the README of the fixtures.
 */
import { quote } from "../model/io/errors.ts";
import { imageTokens } from "../model/janus/config.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { BOUNDS, close, equal, equalTokens, failed, greedy, marginsOf, notComputed } from "./compare.ts";
import type { Comparison } from "./compare.ts";
import { GoldenError } from "./file.ts";
import type { Golden, TokenizerCase, Values } from "./file.ts";
import { whyImpossible } from "./inputs.ts";
import type { GoldenInputs, Ids } from "./inputs.ts";
import type { Embedded, ForcedCodes, GoldenModel } from "./model.ts";
import { isTrainEntry, parseBatch, parseStages } from "./train_file.ts";

/** Images that differ by less than this (relative L2) are meant to be the same one. */
const SAME_PICTURE = 0.1;

/** Computes the row of an entry of golden.safetensors. `i` is the number in its name. */
type Compute = (run: Verification, entry: string, golden: Values, i: number) => Comparison | Promise<Comparison>;

/** In the order of the rows. */
const ENTRIES: readonly (readonly [RegExp, Compute])[] = [
  [/^preprocess\.pixels(\d+)$/, ({ inputs }, entry, golden, i) => close(entry, golden, inputs.picture(i))],
  [/^vision\.pixels$/, ({ inputs }, entry, golden) => close(entry, golden, inputs.firstPictures(golden.shape[0]))],
  [
    /^vision\.last_hidden$/,
    async ({ inputs, model }, entry, golden) => close(entry, golden, await model.visionTower(await inputs.pixels())),
  ],
  [
    /^vision\.aligned$/,
    async ({ inputs, model }, entry, golden) =>
      close(entry, golden, await model.imageEmbeddings(await inputs.pixels())),
  ],
  [/^text\.input_ids$/, (_, entry, { shape }) => notComputed(entry, shape, "input")],
  [
    /^text\.logits$/,
    async ({ inputs, model }, entry, golden) =>
      close(entry, golden, await model.textLogits(await inputs.ids("text.input_ids"))),
  ],
  [/^und\.input_ids$/, (run, entry, golden) => run.promptBatch(entry, golden, "inputIds")],
  [/^und\.attention_mask$/, (run, entry, golden) => run.promptBatch(entry, golden, "attentionMask")],
  [/^und\.pixels$/, (run, entry, golden) => run.questionPixels(entry, golden)],
  [
    /^und\.last_logits$/,
    async (run, entry, golden) => close(entry, golden, await run.model.questionLogits(await run.questions(), "last")),
  ],
  [/^und\.logits_row(\d+)$/, (run, entry, golden, r) => run.questionRow(entry, golden, r)],
  [/^und\.greedy_ids$/, (run, entry, golden) => run.answers(entry, golden)],
  [/^gen(\d+)\.input_ids$/, (run, entry, golden, i) => run.generationPrompt(entry, golden, i)],
  [/^gen(\d+)\.first_logits$/, async (run, entry, golden, i) => close(entry, golden, (await run.forced(i)).first)],
  [/^gen(\d+)\.cfg_logits_first\d+$/, (run, entry, golden, i) => run.guidedLogits(entry, golden, i)],
  [/^gen(\d+)\.tokens$/, (run, entry, golden, i) => run.drawing(entry, golden, i)],
  [
    /^gen(\d+)\.pixels$/,
    async (run, entry, golden, i) => close(entry, golden, await run.model.decoded(await run.drawnCodes(i))),
  ],
  [/^vq\.z$/, async (run, entry, golden) => close(entry, golden, await run.vectors())],
  [/^vq\.codes$/, (run, entry, golden) => run.codes(entry, golden)],
  [/^vq\.margin$/, async (run, entry, golden) => close(entry, golden, await run.margins())],
  [
    /^vq\.reconstruction$/,
    async (run, entry, golden) => close(entry, golden, await run.model.decoded(await run.codesToDecode())),
  ],
];
const kindOf = (entry: string): number => ENTRIES.findIndex(([pattern]) => pattern.test(entry));

/** Throws `GoldenError` if a folder cannot belong to the model, or lacks what its entries are made of. Needs no device. */
export function checkGolden(golden: Golden, config: JanusConfig): void {
  const { json, tensors, pictures, name } = golden;
  const tokens = imageTokens(config);
  if (json.imageTokens !== null && json.imageTokens !== tokens) {
    throw new GoldenError(
      `${name}/golden.json: num_image_tokens is ${json.imageTokens}, but images of this model have ${tokens}; it is the golden folder of another model`,
    );
  }
  for (const entry of tensors.keys()) {
    const i = /^preprocess\.pixels(\d+)$/.exec(entry)?.[1];
    if (i !== undefined && !pictures.has(Number(i)))
      throw new GoldenError(`${name}: there is no image${i}.png, of which golden.safetensors has ${entry}`);
  }
  parseBatch(golden);
  const trains = parseStages(golden).length > 0;
  if (!trains && json.tokenizer.length === 0 && ![...tensors.keys()].some((entry) => kindOf(entry) >= 0)) {
    throw new GoldenError(`${name}: it contains no entry that is computed here; is it a golden folder?`);
  }
}

/** A row to come. */
interface Task {
  readonly entry: string;
  readonly shape: readonly number[];
  /** Rows are sorted by these in turn: rows of one prompt stand together, what they share is computed once and released. */
  readonly place: readonly [kind: number, i: number, kind: number];
  readonly compute: () => Promise<Comparison>;
}

export class Verification {
  readonly inputs: GoldenInputs;
  readonly model: GoldenModel;
  private readonly golden: Golden;
  /** The last computed value, with its kind. */
  private readonly memo = new Map<string, { readonly i: number; readonly value: Promise<unknown> }>();

  constructor(inputs: GoldenInputs, model: GoldenModel) {
    this.inputs = inputs;
    this.golden = inputs.golden;
    this.model = model;
  }

  /** Number of computed rows. */
  get count(): number {
    return this.tasks().length;
  }

  /** The rows as they come. */
  async *rows(): AsyncGenerator<Comparison> {
    for (const { entry, shape, compute } of this.tasks()) yield await this.guard(entry, shape, compute);
  }

  /** Rows of entries that are neither computed here nor values of training. */
  others(): Comparison[] {
    const { json, tensors } = this.golden;
    return [
      ...json.inputs.map((key) => notComputed(key, null, "input")),
      ...json.unknown.map((key) => notComputed(`golden.json ${quote(key)}`, null, "not known")),
      ...[...tensors.values()]
        .filter(({ name }) => !isTrainEntry(name) && kindOf(name) < 0)
        .map(({ name, shape }) => notComputed(name, shape, "not known")),
    ];
  }

  private tasks(): Task[] {
    const { json, tensors } = this.golden;
    const { tokenizer } = this.inputs.processor;
    const tasks: Task[] = json.tokenizer.map((one, i) => ({
      entry: `tokenizer.${i}`,
      shape: [one.ids.length],
      place: [-2, i, 0],
      compute: async () => this.tokenizer(`tokenizer.${i}`, one),
    }));
    const add = (
      entry: string,
      shape: readonly number[],
      place: Task["place"],
      compute: () => Comparison | Promise<Comparison>,
    ): void => void tasks.push({ entry, shape, place, compute: async () => compute() });
    const { specialIds, imageTokens: tokens, greedyText } = json;
    if (specialIds)
      add("special_ids", [specialIds.size], [-1, 0, 0], () =>
        equal(
          "special_ids",
          [specialIds.size],
          [...specialIds.values()],
          [...specialIds.keys()].map((token) => tokenizer.idOf(token)),
        ),
      );
    if (tokens !== null)
      add("num_image_tokens", [], [-1, 1, 0], () =>
        equal("num_image_tokens", [], [tokens], [imageTokens(this.inputs.config)]),
      );
    if (greedyText)
      add("und.greedy_text", [greedyText.length], [kindOf("und.greedy_ids"), 0, ENTRIES.length], () =>
        this.greedyText("und.greedy_text", greedyText),
      );
    const firstOfGen = kindOf("gen0.input_ids");
    for (const [i, margin] of json.margins)
      add(`gen${i}.top2_margin_min`, [], [firstOfGen, i, ENTRIES.length], () =>
        this.smallestMargin(`gen${i}.top2_margin_min`, margin, i),
      );
    for (const { name, shape } of tensors.values()) {
      const kind = kindOf(name);
      if (kind < 0) continue;
      const [pattern, compute] = ENTRIES[kind]!;
      const i = Number(pattern.exec(name)![1] ?? 0);
      add(name, shape, name.startsWith("gen") ? [firstOfGen, i, kind] : [kind, i, kind], async () =>
        compute(this, name, (await this.golden.read(name))!, i),
      );
    }
    return tasks.sort((a, b) => a.place.map((n, k) => n - b.place[k]!).find((difference) => difference !== 0) ?? 0);
  }

  private async guard(
    entry: string,
    shape: readonly number[],
    compute: () => Promise<Comparison>,
  ): Promise<Comparison> {
    try {
      return await compute();
    } catch (error) {
      return failed(entry, shape, whyImpossible(error));
    }
  }

  private once<T>(what: string, i: number, compute: () => Promise<T>): Promise<T> {
    const found = this.memo.get(what);
    if (found?.i === i) return found.value as Promise<T>;
    const value = compute();
    this.memo.set(what, { i, value });
    return value;
  }

  // ---- text

  private tokenizer(entry: string, { text, ids, idsNoSpecial, decoded }: TokenizerCase): Comparison {
    const { tokenizer } = this.inputs.processor;
    const theirs = [...ids, "|", ...idsNoSpecial, "|", decoded];
    const ours = [
      ...tokenizer.encode(text),
      "|",
      ...tokenizer.encode(text, { bos: false }),
      "|",
      tokenizer.decode(ids),
    ];
    return equal(entry, [ids.length], theirs, ours);
  }

  promptBatch(entry: string, golden: Values, which: "inputIds" | "attentionMask"): Comparison {
    const batch = this.inputs.promptBatch();
    if (!batch) return notComputed(entry, golden.shape, "input: golden.json has no understand_prompts");
    return equalTokens(entry, golden, { shape: [batch.rows, batch.length], data: batch[which] });
  }

  generationPrompt(entry: string, golden: Values, i: number): Comparison {
    const text = this.golden.json.generatePrompts[i];
    if (text === undefined) return notComputed(entry, golden.shape, `input: golden.json has no prompt ${i}`);
    const ids = this.inputs.encode(text);
    return equalTokens(entry, golden, { shape: [1, ids.length], data: Int32Array.from(ids) });
  }

  // ---- questions about images

  /** Verified if each of them is an image of the folder; else they are inputs. */
  async questionPixels(entry: string, golden: Values): Promise<Comparison> {
    const pixels = (await this.inputs.pixelsOf(entry))!;
    const size = pixels.data.length / pixels.shape[0]!;
    const nearest: number[] = [];
    for (let at = 0; at < pixels.shape[0]!; at++) {
      const one = pixels.data.subarray(at * size, (at + 1) * size);
      const distances = [...this.golden.pictures.keys()].map((i) => ({
        i,
        distance: distance(this.inputs.picture(i).data, one),
      }));
      const best = distances.sort((a, b) => a.distance - b.distance)[0];
      if (!best || !(best.distance < SAME_PICTURE))
        return notComputed(entry, golden.shape, `input: its image ${at} is not in the folder`);
      nearest.push(best.i);
    }
    return close(
      entry,
      golden,
      { shape: golden.shape, data: this.inputs.stack(nearest).data },
      BOUNDS.activations,
      `of image ${nearest.join(", ")}`,
    );
  }

  questions(): Promise<Embedded> {
    return this.once("questions", 0, async () => {
      const { pixels, ...questions } = await this.inputs.questions();
      return { ...questions, images: pixels && (await this.model.imageEmbeddings(pixels)) };
    });
  }

  async questionRow(entry: string, golden: Values, r: number): Promise<Comparison> {
    const questions = await this.questions();
    if (r >= questions.rows)
      return failed(entry, golden.shape, `there are ${questions.rows} questions; rows count from 0`);
    return close(entry, golden, await this.model.questionLogits(questions, r));
  }

  /** The free run, by as many tokens as the file has. */
  private freeAnswers(): Promise<number[][]> {
    return this.once("answers", 0, async () => {
      const count = this.golden.tensors.get("und.greedy_ids")?.shape[1];
      if (!count) throw new GoldenError("und.greedy_ids, which says how many tokens, is missing or not [rows, tokens]");
      return this.model.answers(await this.questions(), count);
    });
  }

  async answers(entry: string, golden: Values): Promise<Comparison> {
    const [questions, free] = [await this.questions(), await this.freeAnswers()];
    const length = free[0]!.length;
    const { data } = await this.inputs.ids(entry);
    const rows = free.map((tokens, r) => {
      const theirs = Array.from(data.subarray(r * length, (r + 1) * length));
      return {
        golden: theirs,
        free: tokens,
        forced: () => this.model.forcedAnswer(questions, r, theirs),
      };
    });
    return greedy(entry, golden, rows);
  }

  /** The text of our ids; of the file's if ours left them at a tie, which the row of the ids judges. */
  async greedyText(entry: string, golden: readonly string[]): Promise<Comparison> {
    const free = await this.freeAnswers();
    const theirs = (await this.golden.read("und.greedy_ids"))!;
    const isSame = free.flat().every((id, at) => id === theirs.data[at]);
    const isTie = !isSame && (await this.answers("und.greedy_ids", theirs)).pass === true;
    const length = free[0]!.length;
    const ids = isTie ? free.map((_, r) => Array.from(theirs.data.subarray(r * length, (r + 1) * length))) : free;
    const { tokenizer } = this.inputs.processor;
    return equal(
      entry,
      [golden.length],
      golden,
      ids.map((row) => tokenizer.decode(row)),
    );
  }

  // ---- images of prompts

  private freeDrawing(i: number): Promise<number[]> {
    return this.once("drawing", i, async () => this.model.drawn(await this.inputs.prompt(i)));
  }

  /** The file's codes of image i, else our own: [1, tokens]. */
  async drawnCodes(i: number): Promise<Ids> {
    const found = await this.inputs.codes(`gen${i}.tokens`);
    if (found && found.shape[0] !== 1)
      throw new GoldenError(`gen${i}.tokens contains ${found.shape[0]} images; a prompt has one`);
    if (found) return found;
    const own = await this.freeDrawing(i);
    return { shape: [1, own.length], data: Int32Array.from(own) };
  }

  /** Logits after each prefix of those codes. */
  forced(i: number): Promise<ForcedCodes> {
    return this.once("forced", i, async () =>
      this.model.forcedCodes(await this.inputs.prompt(i), Array.from((await this.drawnCodes(i)).data)),
    );
  }

  /** All positions at once and step by step out of the decoder: the worse of the two counts. */
  async guidedLogits(entry: string, golden: Values, i: number): Promise<Comparison> {
    const { shape, data } = (await this.forced(i)).guided;
    const steps = Math.min(Number(/\d+$/.exec(entry)![0]), shape[0]!);
    const whole = close(entry, golden, { shape: [steps, shape[1]!], data: data.subarray(0, steps * shape[1]!) });
    if (!whole.pass) return whole;
    const codes = Array.from((await this.drawnCodes(i)).data.subarray(0, steps));
    const stepped = close(entry, golden, await this.model.steppedCodes(await this.inputs.prompt(i), codes));
    if (!stepped.pass) return { ...stepped, note: `the decoder step by step: ${stepped.note ?? "too far off"}` };
    return stepped.maxAbs! > whole.maxAbs! ? stepped : whole;
  }

  async drawing(entry: string, golden: Values, i: number): Promise<Comparison> {
    const [{ data }, free] = [await this.drawnCodes(i), await this.freeDrawing(i)];
    return greedy(entry, golden, [{ golden: data, free, forced: async () => (await this.forced(i)).guided }]);
  }

  private async smallestMargin(entry: string, golden: number, i: number): Promise<Comparison> {
    const ours = Math.min(...marginsOf((await this.forced(i)).guided));
    return close(
      entry,
      { shape: [], data: Float64Array.of(golden) },
      { shape: [], data: Float64Array.of(ours) },
      BOUNDS.margin,
    );
  }

  // ---- the image tokenizer

  vectors(): Promise<Values> {
    return this.once("vectors", 0, async () => this.model.codeVectors(await this.inputs.pixels()));
  }

  margins(): Promise<Values> {
    return this.once("margins", 0, async () => this.model.codeMargins(await this.vectors()));
  }

  /** If the golden margin is small (ours, for want of one), another code is no mistake. */
  async codes(entry: string, golden: Values): Promise<Comparison> {
    const own = await this.model.codes(await this.inputs.pixels());
    const theirs = await this.golden.read("vq.margin");
    const margins = theirs && theirs.shape.join() === golden.shape.join() ? theirs : await this.margins();
    return equalTokens(
      entry,
      golden,
      own,
      (at) => margins.data[at]! <= BOUNDS.codeMargin,
      `where the margin is at most ${BOUNDS.codeMargin}`,
    );
  }

  /** Codes to decode: those of the file, else our own. */
  async codesToDecode(): Promise<Values> {
    return (await this.inputs.codes("vq.codes")) ?? this.model.codes(await this.inputs.pixels());
  }
}

/** Relative L2 of what `b` is off from `a`. */
function distance(a: Values["data"], b: Values["data"]): number {
  let [squares, norm] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    squares += (a[i]! - b[i]!) ** 2;
    norm += a[i]! * a[i]!;
  }
  return Math.sqrt(squares / Math.max(norm, 1e-30));
}
