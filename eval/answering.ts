/** Answers batches of items. Consecutive questions about the same images share their beginning: its features, keys and values are computed once. */
import type { Tensor } from "../engine/index.ts";
import { noGrad, scope, tensor } from "../engine/index.ts";
import { cat } from "../kernels/index.ts";
import { generateAnswers } from "../model/answers.ts";
import type { PromptRow } from "../model/causal.ts";
import { prefillPrefix } from "../model/decoding.ts";
import { understandingPixels } from "../model/image/preprocess.ts";
import { readImage } from "../model/node/image_file.ts";
import type { Janus } from "../model/janus/pipeline.ts";
import { questionIds } from "../model/janus/pipeline.ts";
import type { Processor } from "../model/janus/processor.ts";
import { PLAIN_ROLES, PromptFormat } from "../model/janus/prompt.ts";
import type { KvCache } from "../model/llama.ts";
import type { AnswerResult } from "../model/streams.ts";
import type { AskRecipe } from "./recipe.ts";

/** Most answers are a word. The cache of the first try has this much room; longer answers are asked again with all of it. */
const FIRST_TOKENS = 64;

export interface QuestionImage {
  /** Equal for equal images. */
  readonly key: string;
  /** The bytes of its file. */
  load(): Promise<Uint8Array>;
}

export interface Question {
  readonly ids: readonly number[];
  readonly images: readonly QuestionImage[];
}

/** Counts of the work done, for a report of speed. */
export interface Work {
  questions: number;
  images: number;
  encoded: number;
  /** Beginnings of prompts that were computed; the other questions found theirs in the cache. */
  prefixes: number;
}

export class Answerer implements Disposable {
  readonly work: Work = { questions: 0, images: 0, encoded: 0, prefixes: 0 };
  private readonly janus: Janus;
  private readonly recipe: AskRecipe;
  private readonly processor: Processor;
  private readonly features = new Map<string, Tensor>();
  /** The beginning of the question that ran last. */
  private prefix: { readonly key: string; readonly cache: KvCache } | null = null;

  constructor(janus: Janus, recipe: AskRecipe) {
    this.janus = janus;
    this.recipe = recipe;
    this.processor = withRoles(janus.processor, recipe.roles);
  }

  get placeholder(): string {
    const { tokenizer } = this.processor;
    return tokenizer.tokenOf(tokenizer.specials.imagePlaceholder)!;
  }

  /** Token ids of a message with `images` placeholders in it. Throws `PromptError`. */
  ids(message: string, images: number): number[] {
    return questionIds(this.processor, [{ role: "user", content: message }], images, this.recipe.system);
  }

  /** Computes the features of images that are not in the cache. Throws `ImageError`, `RowError` for one that cannot be read. */
  async prepare(images: Question["images"]): Promise<void> {
    for (const image of images) {
      this.work.images++;
      if (this.features.has(image.key)) continue;
      this.work.encoded++;
      const decoded = await readImage(await image.load(), { plain: true });
      this.features.set(image.key, this.embed(understandingPixels(decoded, this.processor.images)));
    }
  }

  /** Answers of a batch of prepared questions; greedy, so that each is the same in any batch. */
  async answer(questions: readonly Question[], signal: AbortSignal): Promise<readonly AnswerResult[]> {
    const { maxNewTokens } = this.recipe.decoding;
    const room = this.janus.config.language.maxPositions;
    const longest = Math.max(...questions.map(({ ids }) => ids.length));
    const most = Math.max(1, Math.min(maxNewTokens, room - longest));
    const first = await this.try(questions, Math.min(FIRST_TOKENS, most), signal);
    const open = first.flatMap(({ finish }, i) => (finish === "length" && most > FIRST_TOKENS ? [i] : []));
    const rest = open.length === 0 ? [] : await this.try(open.map((i) => questions[i]!), most, signal); // prettier-ignore
    this.forget(questions.at(-1)!);
    return first.map((result, i) => (open.includes(i) ? rest[open.indexOf(i)]! : result));
  }

  private async try(
    questions: readonly Question[],
    maxNewTokens: number,
    signal: AbortSignal,
  ): Promise<AnswerResult[]> {
    const { tokenizer } = this.processor;
    const joined: Tensor[] = [];
    const placeholder = tokenizer.specials.imagePlaceholder;
    this.work.questions += questions.length;
    const rows = questions.map(({ ids, images }): PromptRow => {
      const parts = images.map(({ key }) => this.features.get(key)!);
      if (parts.length === 0) return { ids };
      const embeddings = parts.length === 1 ? parts[0]! : noGrad(() => scope(() => cat([...parts]))).keep();
      if (parts.length > 1) joined.push(embeddings);
      const row = { ids, images: { embeddings, placeholder } };
      const key = images.map((image) => image.key).join();
      const length = ids.lastIndexOf(placeholder) + 1;
      return { ...row, prefix: { length, cache: () => this.prefixOf(key, { ...row, ids: ids.slice(0, length) }) } };
    });
    try {
      const options = { maxNewTokens, temperature: 0, stopIds: [tokenizer.specials.eos], signal };
      const run = generateAnswers(
        this.janus.model,
        tokenizer,
        { prompts: questions.map(({ ids }) => ({ ids })), rows: () => rows },
        options,
      );
      for (;;) {
        const step = await run.next();
        if (step.done) return step.value;
      }
    } finally {
      for (const t of joined) t.dispose();
      this.janus.device.pool.trim();
    }
  }

  private embed(pixels: Float32Array): Tensor {
    const side = this.janus.config.vision.imageSize;
    const { device, model } = this.janus;
    return noGrad(() => scope(() => model.model.call(tensor(pixels, { shape: [1, 3, side, side], device })).flatten(0, 1))).keep(); // prettier-ignore
  }

  /** Keys and values of the beginning up to the last image; those of the last images asked for are kept. */
  private prefixOf(key: string, beginning: PromptRow): KvCache {
    if (this.prefix?.key !== key) {
      this.prefix?.cache.dispose();
      this.prefix = null;
      this.prefix = { key, cache: prefillPrefix(this.janus.model, beginning) };
      this.work.prefixes++;
    }
    return this.prefix.cache;
  }

  /** Frees the features of images that the next batch does not continue with. */
  private forget({ images }: Question): void {
    for (const [key, features] of this.features) {
      if (images.some((image) => image.key === key)) continue;
      features.dispose();
      this.features.delete(key);
    }
  }

  [Symbol.dispose](): void {
    this.prefix?.cache.dispose();
    this.forget({ ids: [], images: [] });
  }
}

/** The processor with the recipe's role names. */
function withRoles(processor: Processor, roles: AskRecipe["roles"]): Processor {
  if (roles === "model") return processor;
  const { tokenizer, prompts } = processor;
  return { ...processor, prompts: new PromptFormat(tokenizer, prompts.config, PLAIN_ROLES) };
}
