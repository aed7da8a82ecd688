/**
 * One training sample as tokens, and rows of several of them. A token is the id of a text token, the position of a piece of an image, or an image
 * code; what it has to predict is a text token, an image code, or nothing. Prompts, placeholders and padding predict nothing.
 */
import { ArgumentError } from "../engine/index.ts";

/** Multimodal understanding, pure text, visual generation. */
export const TASKS = ["und", "text", "gen"] as const;
export type Task = (typeof TASKS)[number];

/** Target of tokens that are not trained. */
export const IGNORE = -100;

/** All arrays have the same length: the tokens of the sample, in order. */
export interface Sample {
  readonly task: Task;
  /** Text ids; at the places of images their placeholder, at image codes 0. */
  readonly ids: Int32Array;
  /** Image codes that are inputs, −1 elsewhere. */
  readonly codes: Int32Array;
  /** Index of the sample's image embedding at this position (counted over all its images); −1 elsewhere. */
  readonly places: Int32Array;
  /** The text token that follows this one, if it is trained. */
  readonly textTargets: Int32Array;
  /** The image code that follows this one, if it is trained. */
  readonly codeTargets: Int32Array;
  /** Pixels of its images, float32 [3, S, S] each. */
  readonly images: readonly Float32Array[];
  /** Name of the sample in messages. */
  readonly name: string;
  /** DPO: the sample that is preferred less, of the same task and with the same images. */
  readonly rejected?: Sample;
  /** GRPO: the text of the prompt. */
  readonly prompt?: string;
  /** GRPO: what is known of an image that was drawn. */
  readonly drawn?: DrawnImage;
}

export interface DrawnImage {
  /** How much better its reward is than those of the other images of the prompt, in their standard deviations. */
  readonly advantage: number;
  /** The same codes after the prompt without its words; null without guidance. */
  readonly unconditional: Sample | null;
}

/** Number of trained tokens of a sample. */
export const trainedTokens = ({ textTargets, codeTargets }: Pick<Sample, "textTargets" | "codeTargets">): number =>
  textTargets.reduce((n, t) => n + Number(t !== IGNORE), 0) + codeTargets.reduce((n, t) => n + Number(t !== IGNORE), 0);

/** Throws `ArgumentError` if an image of `samples` does not have 3 × `side` × `side` values. */
export function requireImages(samples: readonly Pick<Sample, "name" | "images">[], side: number): void {
  for (const { name, images } of samples) {
    const bad = images.find(({ length }) => length !== 3 * side ** 2);
    if (bad)
      throw new ArgumentError(
        `sample "${name}": an image must be float32 [3, ${side}, ${side}], ${3 * side ** 2} values; got ${bad.length}. Resize it as the model's processor does.`,
      );
  }
}

/**
 * A text or an answer about images.
 * @param labels for each id the id itself if it is trained, else `IGNORE`: aligned with the ids; the shift is done here
 * @param placeholder id of each position of an image
 */
export function textSample(
  task: "und" | "text",
  ids: readonly number[],
  labels: readonly number[],
  images: readonly Float32Array[] = [],
  placeholder = -1,
  name = "",
): Sample {
  if (ids.length !== labels.length || ids.length === 0)
    throw new ArgumentError(`textSample: ${ids.length} ids and ${labels.length} labels; one a token, at least one`);
  let next = 0;
  return {
    task,
    ids: Int32Array.from(ids),
    codes: new Int32Array(ids.length).fill(-1),
    places: Int32Array.from(ids, (id) => (id === placeholder && images.length ? next++ : -1)),
    textTargets: Int32Array.from(ids, (_, i) => labels[i + 1] ?? IGNORE),
    codeTargets: new Int32Array(ids.length).fill(IGNORE),
    images,
    name,
  };
}

/**
 * An image to generate: a prompt that ends with begin-of-image, then codes. Begin-of-image predicts the first code,
 * each code the next one; the last code predicts nothing and so is no input. With `drop` (an id) the prompt's inner
 * tokens become that id, as in the unconditional row of guidance.
 */
export function imageSample(
  prompt: readonly number[],
  codes: readonly number[] | Uint16Array,
  drop: number | null = null,
  name = "",
): Sample {
  if (prompt.length < 2 || codes.length < 1)
    throw new ArgumentError(
      `imageSample: ${prompt.length} ids and ${codes.length} codes; a prompt of at least two ids, then codes`,
    );
  const [p, length] = [prompt.length, prompt.length + codes.length - 1];
  const filled = (value: number): Int32Array => new Int32Array(length).fill(value);
  const sample = {
    task: "gen" as const,
    ids: filled(0),
    codes: filled(-1),
    places: filled(-1),
    textTargets: filled(IGNORE),
    codeTargets: filled(IGNORE),
    images: [],
    name,
  };
  for (const [i, id] of prompt.entries()) sample.ids[i] = drop !== null && i > 0 && i < p - 1 ? drop : id;
  sample.codes.set(Array.from(codes).slice(0, -1), p);
  sample.codeTargets.set(codes, p - 1);
  return sample;
}

/** Stands for a sample that another process takes. */
export function sampleElsewhere(task: Task, name: string): Sample {
  const none = new Int32Array();
  return { task, name, ids: none, codes: none, places: none, textTargets: none, codeTargets: none, images: [] };
}

/** A prompt that images are to be drawn from: nothing of it is trained before they are. */
export function promptSample(ids: readonly number[], prompt: string, name = ""): Sample {
  return { ...imageSample(ids, [0], null, name), codeTargets: new Int32Array(ids.length).fill(IGNORE), prompt };
}

/** Samples packed into rows of equal length; each attends only to itself, from position 0. */
export interface PackedRows {
  readonly rows: number;
  readonly length: number;
  /** [rows · length] each, as in `Sample`; `places` count over all images of the batch. */
  readonly ids: Int32Array;
  readonly codes: Int32Array;
  readonly places: Int32Array;
  /** From 0 in each sample. */
  readonly positions: Int32Array;
  /** Sample of its row that each token belongs to; padding has a separate id. */
  readonly documents: Int32Array;
  readonly images: readonly Float32Array[];
  /** Targets of each task: which tokens (flat indices) are trained, and what they predict. */
  readonly targets: Readonly<Record<Task, { readonly at: Int32Array; readonly to: Int32Array }>>;
  readonly samples: readonly (readonly Sample[])[];
  /** Tokens that are padding. */
  readonly padding: number;
}

/**
 * Builds rows of samples. The samples of each row must fit `length`; `packSamples` finds such rows.
 * @param pad id of the tokens after the last sample of a row
 * @param imagePlaces image embeddings of one image
 */
export function layRows(
  samples: readonly (readonly Sample[])[],
  length: number,
  pad: number,
  imagePlaces: number,
): PackedRows {
  const size = samples.length * length;
  const filled = (value: number): Int32Array => new Int32Array(size).fill(value);
  const [ids, codes, places, positions, documents] = [
    filled(pad),
    filled(-1),
    filled(-1),
    filled(0),
    filled(0x3fffffff),
  ];
  const images: Float32Array[] = [];
  const targets = Object.fromEntries(TASKS.map((task) => [task, { at: [] as number[], to: [] as number[] }])) as Record<
    Task,
    { at: number[]; to: number[] }
  >;
  let used = 0;
  for (const [r, row] of samples.entries()) {
    let at = r * length;
    for (const [d, sample] of row.entries()) {
      const count = sample.ids.length;
      if (at + count > (r + 1) * length)
        throw new ArgumentError(
          `layRows: row ${r} has ${at + count - r * length} tokens and more; at most ${length} fit. Pack fewer samples into it`,
        );
      ids.set(sample.ids, at);
      codes.set(sample.codes, at);
      const before = images.length * imagePlaces;
      for (let i = 0; i < count; i++) {
        positions[at + i] = i;
        documents[at + i] = d;
        if (sample.places[i]! >= 0) places[at + i] = before + sample.places[i]!;
        const target = sample.task === "gen" ? sample.codeTargets[i]! : sample.textTargets[i]!;
        if (target !== IGNORE) {
          targets[sample.task].at.push(at + i);
          targets[sample.task].to.push(target);
        }
      }
      images.push(...sample.images);
      at += count;
      used += count;
    }
  }
  const arrays = Object.fromEntries(
    TASKS.map((task) => [task, { at: Int32Array.from(targets[task].at), to: Int32Array.from(targets[task].to) }]),
  ) as PackedRows["targets"];
  return {
    rows: samples.length,
    length,
    ids,
    codes,
    places,
    positions,
    documents,
    images,
    targets: arrays,
    samples,
    padding: size - used,
  };
}

/** Packs samples into rows of `length` tokens with first-fit, in their order. Throws `ArgumentError` for a sample longer than a row. */
export function packSamples(samples: readonly Sample[], length: number): Sample[][] {
  const rows: { left: number; samples: Sample[] }[] = [];
  for (const sample of samples) {
    const count = sample.ids.length;
    if (count > length)
      throw new ArgumentError(
        `packSamples: ${sample.name || "a sample"} has ${count} tokens; at most ${length} fit into a row. Make rows longer or leave it out`,
      );
    let row = rows.find(({ left }) => left >= count);
    if (!row) rows.push((row = { left: length, samples: [] }));
    row.samples.push(sample);
    row.left -= count;
  }
  return rows.map((row) => row.samples);
}

/** The trained tokens of each sample of packed rows, as flat positions in them, with the ids or codes that they predict. */
export function targetsOf(rows: PackedRows): Map<Sample, { readonly at: number[]; readonly to: number[] }> {
  const found = new Map<Sample, { at: number[]; to: number[] }>();
  for (const [r, row] of rows.samples.entries()) {
    let first = r * rows.length;
    for (const sample of row) {
      const own = sample.task === "gen" ? sample.codeTargets : sample.textTargets;
      const trained = [...own.keys()].filter((i) => own[i] !== IGNORE);
      found.set(sample, { at: trained.map((i) => first + i), to: trained.map((i) => own[i]!) });
      first += own.length;
    }
  }
  return found;
}
