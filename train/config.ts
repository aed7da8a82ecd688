/**
 * The settings of a training run, checked before any device work. An unknown key, a wrong type or a number out of range is refused with its path
 * and, if there is one, the nearest known key. Presets and YAML files are node/settings.ts.
 */
import { z } from "zod";
import { JanusError } from "../engine/errors.ts";
import { nearestName } from "../engine/options.ts";
import { constantSchedule } from "../model/nn/optim/schedules.ts";

/** Settings that cannot be used; each line of the message is one problem with its path. */
export class TrainConfigError extends JanusError {}

const whole = (min: number): z.ZodNumber => z.number().int().min(min);
const ratio = z.number().int().min(0);
const weight = z.number().min(0);

const optimizer = z.strictObject({
  /** Learning rate. */
  lr: z.number().positive(),
  /** First steps, over which the rate rises from 0. */
  warmup: whole(0).default(0),
  /** Last steps, over which the rate falls to 0. The report's is constant. */
  cooldown: whole(0).default(0),
  /** Decay of the average of gradients, in each step. */
  beta1: z.number().gt(0).lt(1).default(0.9),
  /** Decay of the average of their squares, in each step. */
  beta2: z.number().gt(0).lt(1).default(0.95),
  /** Added to the root of the second average, by which a step is divided. */
  epsilon: z.number().min(1e-37).default(1e-8),
  /** Part of a weight that a step takes off, times the learning rate. */
  weightDecay: z.number().min(0).default(0),
  /** Largest norm of all gradients together; above it they are scaled down. */
  clip: z.number().positive().default(1),
});

const MOMENTUM = 0.95;

/** Optimizer of stages 1 to 3. */
const languageOptimizer = optimizer
  .extend({
    /** Muon moves the matrices of the layers, AdamW all else. The report uses AdamW alone. Stage 1 trains no layers. */
    muon: z.boolean().default(false),
    /** int8: AdamW keeps its moments in 8 bits, in blocks of 256 elements, those of small parameters in f32. */
    moments: z.enum(["f32", "int8"]).optional(),
    /** bf16: with int8 moments and dtype bf16, no f32 masters; weights are rounded by chance, so that small steps add up. */
    masters: z.enum(["f32", "bf16"]).optional(),
    /** Momentum of Muon. */
    momentum: z.number().min(0).lt(1).default(MOMENTUM),
  })
  .refine(({ muon, momentum }) => muon || momentum === MOMENTUM, {
    path: ["momentum"],
    message: "is Muon's, and muon is false; set optimizer.muon=true, or leave it out",
  });

const save = z
  .strictObject({
    /** Steps between two checkpoints. */
    every: whole(1).default(1000),
    /** Newest checkpoints that are kept. */
    keep: whole(1).default(2),
    /** Checkpoints of multiples of this step are kept too. */
    keepEvery: whole(1).optional(),
  })
  .prefault({});

/** Bad samples (damaged images, wrong JSON, empty or too long texts) are set aside; a run with more of them than `allowed` of quarantine.ts ends. */
const bad = z
  .strictObject({
    /** Most bad samples, as a share of all samples seen. */
    share: z.number().min(0).max(1).default(0.001),
    /** This many are allowed in any case. */
    least: whole(0).default(100),
  })
  .prefault({});

/** Low-rank adapters are trained instead of weights, which are frozen. */
const lora = z.strictObject({
  /** Rank of the updates. */
  rank: whole(1).default(16),
  /** The update is scaled by alpha / rank, with `rslora` by alpha / √rank (default: the rank). */
  alpha: z.number().positive().optional(),
  /** Part of the inputs of the adapters that are 0 in training. */
  dropout: z.number().min(0).lt(1).default(0),
  /**
   * Linear layers that get an adapter, by the end of their paths, `*` for any characters: q_proj, self_attn.*, model.aligner.* (default: all that the stage
   * trains). The text head cannot have one.
   */
  targets: z.array(z.string().min(1)).min(1).optional(),
  /** Scale by alpha / √rank. */
  rslora: z.boolean().default(false),
  /** Quantise the frozen layers of the Llama and the image head (QLoRA). */
  quantize: z.enum(["int8", "int4"]).optional(),
});

/** Direct preference optimization (Rafailov et al. 2023): preferences train against the frozen model that the run began with. */
const dpo = z.strictObject({
  /** Factor of the log-ratios: the larger, the less the model leaves the frozen one. */
  beta: z.number().positive().default(0.1),
});

/** Seconds that a timer of JavaScript can wait: 2³¹ ms. A longer one would end at once. */
const MAX_TIMEOUT = 2_147_483;

/** Group relative policy optimization (Shao et al. 2024): images are drawn from prompts, a program rewards them, and what is better than others is made likelier. */
const grpo = z.strictObject({
  /** Command that rewards images: see docs/training.md. Optional if the program that calls `train` gives a function. */
  reward: z.string().min(1).optional(),
  /** Images of a prompt. */
  group: whole(2).default(8),
  /** Steps of the optimizer on the images of a step. */
  updates: whole(1).default(1),
  /** Ratios of new to old probabilities count from 1 − clip to 1 + clip. */
  clip: z.number().gt(0).lt(1).default(0.2),
  /** Weight of the divergence from the frozen model that the run began with; 0 for none. */
  beta: z.number().min(0).default(0.02),
  /** How images are drawn, and of which distribution probabilities are (default: the model's own). */
  guidance: z.number().optional(),
  /** Temperature of these draws (default: the model's own). */
  temperature: z.number().positive().optional(),
  /** Images drawn at once: at least a group. */
  drawnAtOnce: whole(1).default(32),
  /** Seconds that the command may take for the images of a step. */
  timeout: z.number().positive().max(MAX_TIMEOUT).default(600),
});

/** Settings of the page `report.html` in the run folder. They do not change training. */
const page = z.strictObject({
  /** Steps between two writings; 0 for no page. */
  every: whole(0).default(100),
  /** Number of training images that the report shows beside their reconstructions; 0 for none. */
  reconstructions: whole(0).default(4),
});

/**
 * Names of fields and columns of the sources, by what they are used as: `{ prompt: TEXT, image: [jpg, img] }`; of several names, the first that
 * a record has.
 */
const fieldNames = z
  .record(z.string().min(1), z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]))
  .optional();

const fields = z.strictObject({
  /**
   * Stage, which selects the trained parameters: 1 adaptors and image head, 2 all except SigLIP, 3 also SigLIP; never
   * the image tokenizer.
   */
  stage: z.union(
    [z.literal(1), z.literal(2), z.literal(3)],
    "1, 2 or 3; stage 0, the image tokenizer, has separate settings (the preset stage0)",
  ),
  /** Samples of a step, over all accumulation. */
  batch: whole(1),
  /** Tokens of a packed row. */
  length: whole(16).max(2 ** 20),
  /** Steps of the whole run. */
  steps: whole(1),
  /** Ends the run here, if that is before `steps`. */
  stopAt: whole(1).optional(),
  /** Samples of each task in every step. */
  ratios: z
    .strictObject({
      /** Questions and answers about images. */
      und: ratio,
      /** Texts. */
      text: ratio,
      /** Images for prompts. */
      gen: ratio,
    })
    .refine(({ und, text, gen }) => und + text + gen > 0, "at least one of them must be above 0"),
  /** Weights of the task losses in their sum (default: 1). */
  weights: z
    .strictObject({
      /** Weight of the answers about images. */
      und: weight.default(1),
      /** Weight of the texts. */
      text: weight.default(1),
      /** Weight of the image codes. */
      gen: weight.default(1),
    })
    .prefault({}),
  optimizer: languageOptimizer,
  /** Part of the image prompts whose inner tokens become padding, for guidance. */
  conditioningDropout: z.number().min(0).max(1).default(0.1),
  /** Packed rows that go through the model at once; gradients of the others of a step are added up. */
  microRows: whole(1).default(1),
  /** Recompute each block of the Llama and of SigLIP in backward instead of saving its activations. */
  recompute: z.boolean().default(false),
  /**
   * What several processes divide among them: masters, moments and averages (optimizer), also the sums of gradients (gradients), also the weights
   * between their uses (parameters). The result is the same, bit for bit. One process divides nothing.
   */
  sharding: z.enum(["none", "optimizer", "gradients", "parameters"]).optional(),
  /** Dtype of the weights and their copies; masters and moments are f32. */
  dtype: z.enum(["f32", "bf16", "f16"]).default("f32"),
  /** Scaling of the losses if `dtype` is f16, in the words of PyTorch's GradScaler. */
  lossScaling: z
    .strictObject({
      /** Scale of the first step. */
      initScale: z.number().min(1).max(1e38).default(65536),
      /** Factor of the scale after `growthInterval` steps with finite gradients. */
      growthFactor: z.number().min(1).default(2),
      /** Factor of the scale after a step whose gradients were not finite. */
      backoffFactor: z.number().gt(0).max(1).default(0.5),
      /** Steps with finite gradients before the scale grows. */
      growthInterval: whole(1).default(2000),
    })
    .prefault({}),
  lora: lora.optional(),
  dpo: dpo.optional(),
  grpo: grpo.optional(),
  /** Moving averages of what trains, in f32: `janus ckpt export --ema`. */
  ema: z
    .strictObject({
      /** Share of an average that a step keeps. */
      decay: z.number().gt(0).lt(1),
    })
    .optional(),
  /** Seed of the order of the data and of all random draws. */
  seed: whole(0).default(0),
  data: z
    .strictObject({
      /** Too long for a row: plain texts are cut, conversations lose whole turns at their end. Without it they are bad samples. */
      truncate: z.boolean().default(false),
      /** System message of conversations without one (default: the original's); "" for none. */
      system: z.string().optional(),
      /** Images as the original takes them: stored pixels, no EXIF rotation, alpha dropped. */
      plain: z.boolean().default(false),
      fields: fieldNames,
    })
    .prefault({}),
  bad,
  save,
  report: page
    .extend({
      /** An image of each is drawn during training. */
      prompts: z.array(z.string().min(1)).default([]),
      /** Steps between two samples (default: `every`). */
      sampleEvery: whole(1).optional(),
      /** Seed of the first prompt's samples, the same each time; the next prompt has the next seed. */
      seed: whole(0).max(0x7fffffff).default(0),
      /** Guidance of the samples (default: the model's own). */
      guidance: z.number().optional(),
      /** Temperature of the samples (default: the model's own). */
      temperature: z.number().min(0).optional(),
    })
    .prefault({}),
});

const schema = fields
  .refine(({ stage, ratios }) => stage > 1 || ratios.und + ratios.gen > 0, {
    path: ["ratios"],
    message: "stage 1 learns nothing from texts alone; und or gen must be above 0",
  })
  .refine(
    ({ dtype, lora: adapters, optimizer: { masters, moments } }) =>
      masters !== "bf16" || (moments === "int8" && dtype === "bf16" && !adapters),
    {
      path: ["optimizer", "masters"],
      message:
        "bf16 needs optimizer.moments=int8, dtype=bf16 and no lora, whose adapters are f32; change them, or leave it out",
    },
  )
  .refine(({ sharding = "none", lora: adapters }) => sharding === "none" || !adapters, {
    path: ["sharding"],
    message: "divides what trains, which with lora is small; leave one of them out",
  })
  .refine(
    ({ sharding = "none", optimizer: { muon, moments = "f32" } }) =>
      sharding === "none" || (!muon && moments === "f32"),
    {
      path: ["sharding"],
      message:
        "cuts parameters into ranges: Muon needs whole matrices, int8 moments whole blocks; leave optimizer.muon and optimizer.moments out, or sharding",
    },
  )
  .refine(({ lora: adapters, optimizer: { muon } }) => !adapters || !muon, {
    path: ["optimizer", "muon"],
    message: "moves the matrices of the layers, which are frozen with lora; leave one of them out",
  })
  .refine(
    ({ sharding = "none", dpo: one, grpo: other }) =>
      !(one || other) || sharding === "none" || sharding === "optimizer",
    {
      path: ["sharding"],
      message:
        "gradients and parameters run the model a layer at a time, which dpo and grpo do not; set optimizer, or leave it out",
    },
  )
  .refine((one) => !one.dpo || !one.grpo, {
    path: ["grpo"],
    message: "is another training than dpo; leave one of them out",
  })
  .refine((one) => !(one.dpo || one.grpo) || one.conditioningDropout === 0, {
    path: ["conditioningDropout"],
    message: "must be 0 with dpo and grpo, which compare images of whole prompts; set it",
  })
  .refine((one) => !one.dpo || !one.data.truncate, {
    path: ["data", "truncate"],
    message: "would cut the answers that dpo compares; leave it out",
  })
  .refine((one) => !one.grpo || (one.ratios.und === 0 && one.ratios.text === 0), {
    path: ["ratios"],
    message: "must be { und: 0, text: 0, gen: 1 } with grpo, which draws images",
  })
  .refine(({ grpo: one }) => !one || one.drawnAtOnce >= one.group, {
    path: ["grpo", "drawnAtOnce"],
    message: "must be at least grpo.group: the images of a prompt are drawn at once; raise it, or lower grpo.group",
  })
  .refine((one) => !one.grpo || !one.lora?.dropout, {
    path: ["lora", "dropout"],
    message: "must be 0 with grpo: probabilities of the same codes would differ by what is dropped",
  });

/** Settings of stages 1 to 3. */
export type TrainConfig = z.infer<typeof schema>;
export type DpoConfig = z.infer<typeof dpo>;
export type GrpoConfig = z.infer<typeof grpo>;
export type LoraConfig = z.infer<typeof lora>;

const tokenizerFields = z.strictObject({
  /** The image tokenizer trains, and nothing else does. */
  stage: z.literal(0),
  /** Images of a step. */
  batch: whole(1),
  /** Images that go through the tokenizer at once; gradients of the others of a step are added up. */
  microBatch: whole(1).default(1),
  /** Steps of the whole run. */
  steps: whole(1),
  /** Ends the run here, if that is before `steps`. */
  stopAt: whole(1).optional(),
  optimizer,
  /** Weight of the commitment loss. */
  commitment: z.number().min(0).default(0.25),
  /** λ of entropy-constrained quantisation: above 0 codes that are used often are preferred while training. */
  rateWeight: z.number().min(0).default(0),
  /** A discriminator's losses (discriminator.ts), from step `from` on. */
  adversarial: z
    .strictObject({
      /** Weight of its loss; 0 for no discriminator. */
      weight: z.number().min(0).default(0),
      /** First step with its loss. */
      from: whole(0).default(20_000),
    })
    .prefault({}),
  /** Codes that were not used in the last `every` steps (0 for never) are moved to vectors of the last one, up to step `until`. */
  reseed: z
    .strictObject({
      /** Steps between two looks; 0 for never. */
      every: whole(0).default(200),
      /** Last step that moves codes (default: the last of the run). */
      until: whole(0).optional(),
    })
    .prefault({}),
  /** Dtype of weights, masters and moments. */
  dtype: z.literal("f32", "f32; the image tokenizer trains in no other").default("f32"),
  /** Seed of the order of the data and of all random draws. */
  seed: whole(0).default(0),
  data: z.strictObject({ fields: fieldNames }).optional(),
  bad,
  save,
  report: page.prefault({}),
});

const tokenizerSchema = tokenizerFields.refine(
  ({ steps, adversarial: { weight, from } }) => weight === 0 || from < steps,
  {
    path: ["adversarial", "from"],
    message: "the discriminator would never begin; a step before the last, or weight: 0",
  },
);

/** Schemas of the settings: of stages 1 to 3, and of stage 0. For the reference of the documentation. */
export const settingsSchemas = { stages: schema, stage0: tokenizerSchema } as const;

/** Settings of stage 0. */
export type TokenizerConfig = z.infer<typeof tokenizerSchema>;

/** Keys of the schema by path, for suggestions. */
function keysOf(type: unknown): string[] {
  const shape = (type as { shape?: Record<string, unknown>; def?: { innerType?: unknown; in?: unknown } }) ?? {};
  if (shape.shape) return Object.keys(shape.shape);
  const inner = shape.def?.innerType ?? shape.def?.in;
  return inner ? keysOf(inner) : [];
}

function typeAt(schema: unknown, path: readonly PropertyKey[]): unknown {
  let type = schema;
  for (const key of path) {
    let open = type as { shape?: Record<string, unknown>; def?: { innerType?: unknown } };
    while (!open.shape && open.def?.innerType) open = open.def.innerType as typeof open;
    type = open.shape?.[String(key)];
  }
  return type;
}

function suggestion(key: string, known: readonly string[]): string {
  const nearest = nearestName(key, known);
  return nearest === null ? `; known: ${known.join(", ")}` : `; did you mean ${nearest}?`;
}

/** Checks the settings of stages 1 to 3 and fills in defaults. Throws a `TrainConfigError` that lists every problem. */
export const checkConfig = (settings: unknown, where?: string): TrainConfig => checked(schema, settings, where);

/** Checks settings of stage 0, as `checkConfig` does those of the others. */
export const checkTokenizerConfig = (settings: unknown, where?: string): TokenizerConfig =>
  checked(tokenizerSchema, settings, where);

/** Checks settings of any stage. */
export const checkAnyConfig = (settings: unknown, where?: string): TrainConfig | TokenizerConfig =>
  (settings as { stage?: unknown } | null)?.stage === 0
    ? checkTokenizerConfig(settings, where)
    : checkConfig(settings, where);

function checked<T>(schema: z.ZodType<T>, settings: unknown, where = "the settings"): T {
  const result = schema.safeParse(settings);
  if (result.success) return result.data;
  const lines = result.error.issues.flatMap((issue) => {
    const path = issue.path.map(String).join(".");
    if (issue.code === "unrecognized_keys")
      return issue.keys.map(
        (key) => `${path ? `${path}.` : ""}${key} is not known${suggestion(key, keysOf(typeAt(schema, issue.path)))}`,
      );
    return [`${path || "the top"}: ${issue.message}`];
  });
  throw new TrainConfigError(
    `${where}: ${lines.length} problem${lines.length === 1 ? "" : "s"}:\n  ${lines.join("\n  ")}`,
  );
}

/** The learning rate of a step, counted from 0: a linear warm-up, constant, a linear fall towards 0 over the last `cooldown` of `steps`. */
export function learningRate(
  {
    steps,
    optimizer: { lr, warmup, cooldown },
  }: { readonly steps: number; readonly optimizer: Pick<TrainConfig["optimizer"], "lr" | "warmup" | "cooldown"> },
  step: number,
): number {
  return constantSchedule({ lr, warmup, cooldown, steps })(step);
}
