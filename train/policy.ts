/** The drawing side of GRPO: images of each prompt from the model as it is, their rewards, and what is trained of them. */
import { ArgumentError, JanusError, philox, seedWords } from "../engine/index.ts";
import type { RgbImage } from "../model/image/image.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { ImageGeneration } from "../model/janus/generate_images.ts";
import { decodePictures } from "../model/janus/image_codes.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import type { Processor } from "../model/janus/processor.ts";
import type { GrpoConfig } from "./config.ts";
import { advantagesOf, drawnSample } from "./grpo.ts";
import type { Drawing } from "./grpo.ts";
import type { Sample } from "./samples.ts";

/** A reward that cannot be used: a program that failed, took too long, or gave no number. It ends the run. */
export class RewardError extends JanusError {}

export interface RewardRequest {
  readonly prompt: string;
  readonly image: RgbImage;
}

/** Rewards of the images of a step, in their order: any finite numbers, of which only differences within a prompt count. */
export type RewardFunction = (images: readonly RewardRequest[]) => Promise<readonly number[]>;

export interface PolicyParts {
  readonly model: JanusForConditionalGeneration;
  readonly sizes: JanusConfig;
  readonly processor: Processor;
  readonly config: GrpoConfig;
  readonly seed: number;
  readonly reward: RewardFunction;
}

export interface DrawnStep {
  readonly samples: readonly Sample[];
  /** Mean of the rewards. */
  readonly reward: number;
  /** Share of the prompts whose images all have one reward, which teach nothing. */
  readonly flat: number;
}

/** How images are drawn by `config`, else by the model's own settings. Throws `ArgumentError` at temperature 0. */
export function drawingOf({ guidance, temperature }: GrpoConfig, { drawing }: Pick<Processor, "drawing">): Drawing {
  const found = { guidance: guidance ?? drawing.guidance, temperature: temperature ?? drawing.temperature };
  if (!(found.temperature > 0))
    throw new ArgumentError("grpo: images of a prompt must differ, with a temperature above 0; got the model's own, 0. Set grpo.temperature."); // prettier-ignore
  return found;
}

/** The drawing side of GRPO: images of each prompt from the model as it is, their rewards, and what is trained of them. */
export class Policy {
  private readonly parts: PolicyParts;
  private readonly drawing: Drawing;

  constructor(parts: PolicyParts) {
    this.parts = parts;
    this.drawing = drawingOf(parts.config, parts.processor);
  }

  /** Draws `group` images of each prompt and rewards them. The same weights, seed and step give the same images. Throws `RewardError`. */
  async draw(prompts: readonly Sample[], step: number): Promise<DrawnStep> {
    const { group, drawnAtOnce } = this.parts.config;
    const seed = philox([step, 0, 0, 0], seedWords(this.parts.seed))[0] & 0x3fffffff;
    const codes: number[][] = [];
    const atOnce = Math.max(1, Math.floor(drawnAtOnce / group));
    for (let first = 0; first < prompts.length; first += atOnce)
      codes.push(...(await this.codes(prompts.slice(first, first + atOnce), seed + first * group)));
    const rewards = await this.rewards(prompts, codes);
    const groups = prompts.map((_, p) => advantagesOf(rewards.slice(p * group, (p + 1) * group)));
    const samples = codes.map((own, i) => {
      const p = Math.floor(i / group);
      const { ids, name } = prompts[p]!;
      const advantage = groups[p]![i % group]!;
      const { pad } = this.parts.processor.tokenizer.specials;
      return drawnSample({ ids: [...ids], name: `${name}, image ${i % group}` }, own, { ...this.drawing, advantage, pad }); // prettier-ignore
    });
    return {
      samples,
      reward: rewards.reduce((sum, r) => sum + r, 0) / rewards.length,
      flat: groups.filter((all) => all.every((one) => one === 0)).length / prompts.length,
    };
  }

  private async codes(prompts: readonly Sample[], seed: number): Promise<number[][]> {
    const { model, sizes, processor, config } = this.parts;
    model.eval();
    try {
      const options = { n: config.group, seed, ...this.drawing };
      const generation = new ImageGeneration(model, sizes, prompts.map(({ ids }) => [...ids]), processor.tokenizer.specials.pad, options); // prettier-ignore
      try {
        for await (const _ of generation.run()); // progress
        return await generation.codes();
      } finally {
        generation.dispose();
        model.device.pool.trim(); // caches, of which training has no use
      }
    } finally {
      model.train();
    }
  }

  private async rewards(prompts: readonly Sample[], codes: readonly (readonly number[])[]): Promise<readonly number[]> {
    const { model, config, reward } = this.parts;
    const requests: RewardRequest[] = [];
    for await (const image of decodePictures(model.model.vqmodel, codes, (i) => `image ${i}`)) {
      const { prompt = "" } = prompts[Math.floor(requests.length / config.group)]!;
      requests.push({ prompt, image });
    }
    const rewards = await reward(requests);
    const bad = rewards.findIndex((one) => !Number.isFinite(one));
    if (rewards.length !== requests.length || bad >= 0)
      throw new RewardError(
        `grpo: the reward must give one finite number for each of ${requests.length} images; got ${bad >= 0 ? `${String(rewards[bad])} for image ${bad}` : `${rewards.length}`}. Correct the program.`,
      );
    return rewards;
  }
}
