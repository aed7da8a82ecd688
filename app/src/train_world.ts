/** Training in the page: the demo's world of coloured shapes, a model from random weights, its image tokenizer first. Runs in train_worker.ts. */
import { LAYOUT, PICTURE, shapesConfig, shapesFiles } from "../../examples/shapes/model.ts";
import { trainingSample } from "../../examples/shapes/dataset.ts";
import { render } from "../../examples/shapes/scene.ts";
import { Device, setDevice, tensor } from "../../engine/index.ts";
import type { RgbImage } from "../../model/image/image.ts";
import { generationPixels } from "../../model/image/preprocess.ts";
import { fileSet } from "../../model/io/bytes.ts";
import type { FolderSink } from "../../model/io/bytes.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { createModel } from "../../model/janus/create.ts";
import type { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { loadModel } from "../../model/janus/load.ts";
import { Janus } from "../../model/janus/pipeline.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import type { Processor } from "../../model/janus/processor.ts";
import { saveModel } from "../../model/janus/save.ts";
import {
  RecordEncoder,
  Trainer,
  VqTraining,
  checkConfig,
  loadTensors,
  saveTensors,
  vqEncoder,
} from "../../train/index.ts";
import type { RawSample, Sample } from "../../train/index.ts";

/** Tokens of a packed row, and the samples of a step: those of the demo's short runs. */
const ROW = 352;
const BATCH = { und: 4, text: 1, gen: 5 } as const;
const TOKENIZER_BATCH = 8;
const SEED = 1;
/** Most steps between samples, and between saves. */
const SAMPLE_EVERY = 20;
const SAVE_EVERY = 20;
/** Least rows of samples of a run. */
const SAMPLES = 4;
const PROMPTS = ["red square", "blue circle", "green triangle", "two yellow rings"];
const OPTIMIZER = "optimizer.safetensors";

export interface Progress {
  readonly steps: { readonly tokenizer: number; readonly language: number };
  readonly done: { readonly tokenizer: number; readonly language: number };
  /** Losses of every step so far. */
  readonly tokenizer: readonly number[];
  readonly language: readonly number[];
}

export interface Handlers {
  readonly onProgress: (progress: Progress) => void;
  readonly onSamples: (step: number, images: readonly { readonly prompt: string; readonly image: RgbImage }[]) => void;
}

interface State extends Progress {
  readonly version: 1;
}

/** Image of training sample `index`. */
const imageOf = (index: number): RgbImage => render(trainingSample(SEED, index, LAYOUT).scene, PICTURE);

const folder = async (): Promise<FileSystemDirectoryHandle> =>
  (await navigator.storage.getDirectory()).getDirectoryHandle("janus-webgpu-training", { create: true });

/** What a sink writes goes to the browser's files. */
function sinkOf(to: FileSystemDirectoryHandle): FolderSink {
  return {
    write: async (name, content) => {
      const writable = await (await to.getFileHandle(name, { create: true })).createWritable();
      if (content instanceof Uint8Array) await writable.write(content as FileSystemWriteChunkType);
      else await content({ write: (bytes) => writable.write(bytes.slice()) });
      await writable.close();
    },
  };
}

async function filesOf(from: FileSystemDirectoryHandle): Promise<Map<string, File>> {
  const files = new Map<string, File>();
  for await (const [name, handle] of from as unknown as AsyncIterable<[string, FileSystemFileHandle]>)
    // lib.dom lacks it
    files.set(name, await handle.getFile());
  return files;
}

async function savedState(files: ReadonlyMap<string, File>): Promise<State | null> {
  const file = files.get("state.json");
  const state = file ? (JSON.parse(await file.text()) as State) : null;
  return state?.version === 1 ? state : null;
}

/** Steps of a stopped run; null if there is none. */
export async function savedProgress(): Promise<Progress | null> {
  return savedState(await filesOf(await folder()));
}

export async function forgetTraining(): Promise<void> {
  await (await navigator.storage.getDirectory()).removeEntry("janus-webgpu-training", { recursive: true });
}

/** A run, new or resumed. */
export class World {
  private readonly device: Device;
  private readonly model: JanusForConditionalGeneration;
  private readonly processor: Processor;
  private readonly config: ReturnType<typeof shapesConfig>;
  private readonly sideFiles: Map<string, Uint8Array>;
  private readonly handlers: Handlers;
  private readonly resumed: ReadonlyMap<string, File> | null;
  private state: State;

  private constructor(parts: {
    device: Device;
    model: JanusForConditionalGeneration;
    processor: Processor;
    config: ReturnType<typeof shapesConfig>;
    sideFiles: Map<string, Uint8Array>;
    handlers: Handlers;
    resumed: ReadonlyMap<string, File> | null;
    state: State;
  }) {
    this.device = parts.device;
    this.model = parts.model;
    this.processor = parts.processor;
    this.config = parts.config;
    this.sideFiles = parts.sideFiles;
    this.handlers = parts.handlers;
    this.resumed = parts.resumed;
    this.state = parts.state;
  }

  /** Opens the stopped run, or starts one of `steps`. */
  static async open(steps: Progress["steps"], handlers: Handlers): Promise<World> {
    const device = await Device.create();
    setDevice(device);
    const sideFiles = shapesFiles(SEED, 1);
    const config = shapesConfig(sideFiles);
    const processor = await readProcessor(fileSet("the tokenizer", sideFiles), config);
    const files = await filesOf(await folder());
    const saved = await savedState(files);
    const parts = { device, processor, config, sideFiles, handlers };
    if (!saved) {
      const none = { tokenizer: 0, language: 0 };
      const state: State = { version: 1, steps, done: none, tokenizer: [], language: [] };
      return new World({ ...parts, model: createModel(config, { seed: SEED, device }), resumed: null, state });
    }
    const weights = new Map([...files].filter(([name]) => name !== OPTIMIZER && name !== "state.json"));
    const checkpoint = await openCheckpoint(fileSet("the stopped run", weights));
    const model = await loadModel(checkpoint, { device, dtype: "f32" });
    for (const parameter of model.parameters()) parameter.requiresGrad = true;
    await checkpoint.close();
    return new World({ ...parts, model, resumed: files, state: saved });
  }

  /** Trains until all steps are done or `isStopped` says so. Resolves to true when the run is complete. */
  async run(isStopped: () => boolean): Promise<boolean> {
    this.handlers.onProgress(this.state);
    await this.trainTokenizer(isStopped);
    if (this.state.done.tokenizer < this.state.steps.tokenizer) return false;
    await this.trainLanguage(isStopped);
    return this.state.done.language >= this.state.steps.language;
  }

  private note(part: "tokenizer" | "language", loss: number): void {
    const { done } = this.state;
    this.state = {
      ...this.state,
      done: { ...done, [part]: done[part] + 1 },
      [part]: [...this.state[part], loss],
    };
    this.handlers.onProgress(this.state);
  }

  private async trainTokenizer(isStopped: () => boolean): Promise<void> {
    const { steps, done } = this.state;
    if (done.tokenizer >= steps.tokenizer) return;
    const { vqmodel } = this.model.model;
    this.model.setRequiresGrad(false);
    vqmodel.setRequiresGrad(true);
    const training = new VqTraining(vqmodel, { lr: 3e-3, rateWeight: 0.08, seed: SEED });
    try {
      for (let step = done.tokenizer; step < steps.tokenizer && !isStopped(); step++) {
        const pixels = new Float32Array(TOKENIZER_BATCH * 3 * PICTURE ** 2);
        for (let i = 0; i < TOKENIZER_BATCH; i++)
          pixels.set(generationPixels(imageOf(step * TOKENIZER_BATCH + i), PICTURE), i * 3 * PICTURE ** 2);
        training.lr = 3e-3 * Math.min(1, (step + 1) / 20, (steps.tokenizer - step) / (steps.tokenizer / 4));
        using batch = tensor(pixels, { shape: [TOKENIZER_BATCH, 3, PICTURE, PICTURE], device: this.device });
        const { losses, vectors } = await training.step(batch);
        if ((step + 1) % 20 === 0 && step < 0.75 * steps.tokenizer) await training.reseed(vectors);
        vectors.dispose();
        this.note("tokenizer", losses.reconstruction);
        if ((step + 1) % SAVE_EVERY === 0) await this.save(null);
      }
      await this.save(null);
    } finally {
      training.dispose();
      vqmodel.eval();
    }
  }

  private async trainLanguage(isStopped: () => boolean): Promise<void> {
    const { steps, done } = this.state;
    const { und, text, gen } = BATCH;
    const config = checkConfig({
      stage: 3,
      steps: steps.language,
      batch: und + text + gen,
      length: ROW,
      microRows: 12,
      ratios: BATCH,
      optimizer: { lr: 5e-3, warmup: Math.min(40, Math.ceil(steps.language / 4)), cooldown: Math.ceil(steps.language / 2), muon: true, weightDecay: 0.1 }, // prettier-ignore
      seed: SEED,
    });
    const trainer = new Trainer(this.model, this.config, config, this.processor.tokenizer.specials.pad);
    await this.loadOptimizer(trainer, done.language);
    const sampleEvery = Math.min(SAMPLE_EVERY, Math.ceil(steps.language / SAMPLES));
    try {
      for (let step = done.language; step < steps.language && !isStopped(); step++) {
        const { loss } = await trainer.take(await this.samples(step));
        this.note("language", loss);
        if ((step + 1) % sampleEvery === 0 || step + 1 === steps.language) await this.draw(step + 1);
        if ((step + 1) % SAVE_EVERY === 0) await this.save(trainer);
      }
      await this.save(trainer);
    } finally {
      trainer.dispose();
    }
  }

  private async loadOptimizer(trainer: Trainer, step: number): Promise<void> {
    const file = this.resumed?.get(OPTIMIZER);
    if (step === 0 || !file) return;
    const state = await loadTensors(fileSet("the stopped run", new Map([[OPTIMIZER, file]])), OPTIMIZER, { device: this.device }); // prettier-ignore
    await trainer.optimizer.loadStateDict(state);
    for (const one of Object.values(state)) one.dispose();
    trainer.resume(step, 0);
  }

  /** The samples of a step; sample n of the world is the same in every run. */
  private async samples(step: number): Promise<Sample[]> {
    const first = step * (BATCH.und + BATCH.gen + BATCH.text);
    const encode = vqEncoder(this.model.model.vqmodel, PICTURE);
    const encoder = new RecordEncoder(this.processor, {
      seed: SEED,
      readImage: async (index) => imageOf(Number(index)),
      codes: async (index) => (await encode([generationPixels(imageOf(Number(index)), PICTURE)]))[0]!,
    });
    const raw: RawSample[] = [];
    for (let i = 0; i < BATCH.und; i++) raw.push(conversation(first + i));
    for (let i = 0; i < BATCH.gen; i++) {
      const index = first + BATCH.und + i;
      const { prompt, description } = trainingSample(SEED, index, LAYOUT);
      raw.push({ task: "gen", prompt: prompt && i % 2 === 0 ? prompt.text : description, image: String(index) });
    }
    raw.push({ task: "text", text: trainingSample(SEED, first + BATCH.und + BATCH.gen, LAYOUT).text });
    const samples: Sample[] = [];
    for (const [i, one] of raw.entries())
      samples.push(await encoder.encode(one, { id: `${step} ${i}`, epoch: 0, name: `step ${step}, sample ${i}` }));
    return samples;
  }

  private async draw(step: number): Promise<void> {
    this.model.eval();
    try {
      const janus = new Janus("training", this.config, this.model, this.processor, `step ${step}`);
      const pictures = await janus.generate(PROMPTS, { seed: SEED, guidance: 1.5, temperature: 1 }).images();
      this.handlers.onSamples(step, pictures.map(({ prompt, image }) => ({ prompt, image }))); // prettier-ignore
    } finally {
      this.model.train();
    }
  }

  private async save(trainer: Trainer | null): Promise<void> {
    const sink = sinkOf(await folder());
    await saveModel(this.model, this.config, sink, { sideFiles: this.sideFiles });
    if (trainer) await saveTensors(sink, OPTIMIZER, trainer.optimizer.stateDict());
    await sink.write("state.json", new TextEncoder().encode(JSON.stringify(this.state)));
  }

  dispose(): void {
    this.device.destroy();
  }
}

/** All questions to one image as a conversation. */
function conversation(index: number): RawSample {
  const { questions } = trainingSample(SEED, index, { ...LAYOUT, questions: 12 });
  const [first, ...rest] = questions;
  if (!first) return conversation(index + 1_000_000);
  const messages = [
    { role: "user", content: [{ type: "image" }, { type: "text", text: first.question }] },
    { role: "assistant", content: first.answer },
    ...rest.flatMap(({ question, answer }) => [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ]),
  ];
  return { task: "und", messages, images: [String(index)] } as RawSample;
}
