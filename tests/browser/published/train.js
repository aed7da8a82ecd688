// Training through the package's published exports, as a program of a user has it: a small model from random weights, then an adapter of `shapes`.
import { Device, Janus, setDevice } from "janus-webgpu";
import { byteTokenizerFiles, createModel, readProcessor, saveAdapter, tinyConfig } from "janus-webgpu/model";
import { createJanusWorker } from "janus-webgpu/worker";
import { RecordEncoder, Trainer, checkConfig } from "janus-webgpu/train";

const TEXTS = ["two red squares are left of a circle", "a blue ring is above a green cross", "one yellow diamond"];

const small = {
  vision: { imageSize: 32, hidden: 32, layers: 1, heads: 2, intermediate: 64 },
  vq: { resBlocks: 1, codes: 64 },
  language: { hidden: 64, intermediate: 128, layers: 2, heads: 2, kvHeads: 2 },
};

const settings = (more) =>
  checkConfig({ stage: 3, batch: 3, length: 128, ratios: { und: 0, text: 1, gen: 0 }, seed: 1, ...more });

/** The samples of TEXTS, as a processor encodes them. */
const encodeAll = (processor) =>
  Promise.all(
    TEXTS.map((text, i) =>
      new RecordEncoder(processor, { seed: 1 }).encode({ task: "text", text }, { id: `${i}`, epoch: 0, name: `${i}` }),
    ),
  );

async function takeSteps(trainer, processor, steps) {
  const samples = await encodeAll(processor);
  const losses = [];
  for (let step = 0; step < steps; step++) losses.push((await trainer.take(samples)).loss);
  return losses;
}

/** 20 steps of a model of random weights. */
window.trainSmall = async () => {
  const device = await Device.create();
  setDevice(device);
  try {
    const files = byteTokenizerFiles({ texts: TEXTS, merges: 64 });
    const source = {
      name: "tokenizer",
      list: async () => [...files.keys()],
      open: async (name) => {
        const bytes = files.get(name);
        return { name, size: bytes.length, read: async (at, length) => bytes.subarray(at, at + length) };
      },
    };
    const { vocab } = JSON.parse(new TextDecoder().decode(files.get("tokenizer.json"))).model;
    const vocabulary = Object.keys(vocab).length + 64;
    const config = tinyConfig({ ...small, language: { ...small.language, vocabulary } });
    const processor = await readProcessor(source, config);
    const model = createModel(config, { seed: 1, device });
    const config20 = settings({ steps: 20, optimizer: { lr: 1e-2 } });
    const trainer = new Trainer(model, config, config20, processor.tokenizer.specials.pad);
    return await takeSteps(trainer, processor, 20);
  } finally {
    device.destroy();
  }
};

/** An answer of a model in a Worker. */
window.askInWorker = async (model) => {
  const worker = createJanusWorker();
  try {
    const janus = await worker.fromFiles(new URL(model, location.href));
    return await janus.ask("Is a red square red?", { maxNewTokens: 4 }).text();
  } finally {
    worker.terminate();
  }
};

/** Some steps of an adapter of `shapes`, saved to the browser's own files and loaded from there. */
window.trainAdapter = async (model) => {
  const device = await Device.create();
  setDevice(device);
  try {
    const janus = await Janus.fromFiles(new URL(model, location.href), { device });
    const config = settings({ steps: 4, optimizer: { lr: 1e-2 }, lora: { rank: 4, targets: ["q_proj", "v_proj"] } });
    const trainer = new Trainer(janus.model, janus.config, config, janus.processor.tokenizer.specials.pad);
    const losses = await takeSteps(trainer, janus.processor, 4);
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("adapter", { create: true });
    const written = {};
    const sink = {
      write: async (name, content) => {
        const writable = await (await folder.getFileHandle(name, { create: true })).createWritable();
        if (content instanceof Uint8Array) await writable.write(content);
        else await content({ write: (bytes) => writable.write(bytes.slice()) });
        await writable.close();
        written[name] = (await (await folder.getFileHandle(name)).getFile()).size;
      },
    };
    await saveAdapter(janus.model, sink);
    trainer.dispose();
    const fresh = await Janus.fromFiles(new URL(model, location.href), { device });
    const before = fresh.fingerprint;
    const files = await Promise.all(
      Object.keys(written).map(async (name) => (await folder.getFileHandle(name)).getFile()),
    );
    await fresh.loadAdapter(files, { name: "trained" });
    return { losses, written, adapters: fresh.adapters, isMarked: fresh.fingerprint !== before };
  } finally {
    device.destroy();
  }
};

document.title = "ready";
