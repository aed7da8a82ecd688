/**
 * 100,000 damaged copies of small right files, the same ones each time: bits flipped, bytes replaced, numbers made extreme, cut, spliced,
 * repeated. The readers may take one or refuse it with an error of theirs; nothing else may come out, and nothing may take long.
 */
import { describe, expect, it } from "vitest";
import { bytesFile, fileSet } from "../../model/io/bytes.ts";
import { openCheckpoint, parseIndex } from "../../model/janus/checkpoint/checkpoint.ts";
import { CheckpointError } from "../../model/io/errors.ts";
import { parseJson, parseJsonObject } from "../../model/io/json.ts";
import { readTensorPickle } from "../../model/io/pickle.ts";
import { encodeSafetensors, readSafetensors } from "../../model/io/safetensors.ts";
import { readTorchZip } from "../../model/io/torch_zip.ts";
import { JANUS_PRO_1B, parseConfig } from "../../model/janus/config.ts";
import { deepseekConfig, hfConfig } from "../../model/janus/checkpoint/side_files.ts";
import { P, ascii, concat, random, torchFile } from "../checkpoint/files.ts";

type Random = (n: number) => number;

const EXTREME = [0, 1, 0x7f, 0x80, 0xff];

/** One of a few kinds of damage, one to three times. */
function damage(bytes: Uint8Array, next: Random): Uint8Array {
  let out: Uint8Array = bytes.slice();
  for (let times = 1 + next(3); times > 0; times--) {
    const at = next(Math.max(1, out.length));
    const length = 1 + next(16);
    switch (next(8)) {
      case 0:
      case 1:
        if (out.length) out[at]! ^= 1 << next(8);
        break;
      case 2:
        if (out.length) out[at] = next(256);
        break;
      case 3: // a number of 1, 2, 4 or 8 bytes becomes extreme
        out.fill(EXTREME[next(EXTREME.length)]!, at, Math.min(out.length, at + (1 << next(4))));
        break;
      case 4: // cut
        out = out.slice(0, at);
        break;
      case 5: // a piece is gone
        out = concat(out.subarray(0, at), out.subarray(Math.min(out.length, at + length)));
        break;
      case 6: // a piece is there twice
        out = concat(out.subarray(0, at + length), out.subarray(at));
        break;
      default: {
        // a piece from elsewhere
        const from = next(Math.max(1, out.length));
        out.set(out.slice(from, Math.min(out.length, from + length, from + out.length - at)), at);
      }
    }
  }
  return out;
}

const tensors = [
  { name: "model.a.weight", dtype: "bf16", shape: [2, 3], data: new Uint8Array(12) },
  { name: "b", dtype: "f32", shape: [], data: new Uint8Array(4) },
  { name: "c", dtype: "u8", shape: [0], data: new Uint8Array(0) },
] as const;
const safetensors = encodeSafetensors(tensors, { format: "pt" });
const list = [{ name: "model.a.weight", shape: [2, 3] }, { name: "b", shape: [4], type: "FloatStorage" as const }]; // prettier-ignore
const pickle = P.whole(
  concat(
    P.orderedDict(),
    P.put(0),
    P.mark,
    P.text("a"),
    P.tensor(concat(P.storage("0", 6), P.put(1)), [2, 3]),
    P.text("b"),
    P.tensor(P.get(1), [2], { offset: 4 }),
    P.setItems,
    P.dict(["_metadata", P.emptyDict]),
    P.build,
  ),
);
const index = ascii(
  JSON.stringify({ metadata: { total_size: 16 }, weight_map: { "model.a": "m-1.safetensors", b: "m-2.safetensors" } }),
);
const json = ascii('{"a":[1,-2.5e3,true,null,"x\\u00e9\\n\\ud83d\\ude00é"],"b":{"c":{}}}');
const ids = { image: 1, beginImage: 2, bos: 3, eos: 4, pad: 5 };
const configs = [deepseekConfig(JANUS_PRO_1B, "bfloat16"), hfConfig(JANUS_PRO_1B, ids, "bfloat16")].map((config) =>
  ascii(JSON.stringify(config)),
);
const config = (bytes: Uint8Array): unknown => parseConfig(parseJsonObject(bytes, "config.json"));
const folder = (name: string) => (bytes: Uint8Array) => openCheckpoint(fileSet("m", new Map([["config.json", configs[0]!], [name, bytes]]))); // prettier-ignore

const kinds: [name: string, file: Uint8Array, read: (bytes: Uint8Array) => unknown, count: number][] = [
  ["safetensors", safetensors, (bytes) => readSafetensors(bytesFile("m", bytes)), 25_000],
  ["zip", torchFile(list), (bytes) => readTorchZip(bytesFile("m", bytes)), 20_000],
  ["ZIP64", torchFile(list, { zip64: true }), (bytes) => readTorchZip(bytesFile("m", bytes)), 10_000],
  ["pickle", pickle, (bytes) => readTensorPickle(bytes, "m"), 20_000],
  ["JSON", json, (bytes) => parseJson(bytes, "m"), 8000],
  ["index", index, (bytes) => parseIndex(bytes, "m"), 5000],
  ["config of DeepSeek", configs[0]!, config, 5000],
  ["config of transformers", configs[1]!, config, 5000],
  ["folder with safetensors", safetensors, folder("model.safetensors"), 1000],
  ["folder with torch.save", torchFile(list), folder("pytorch_model.bin"), 1000],
];
const cpuMs = (): number => process.cpuUsage().user / 1000; // the machine may be busy with other things

describe("damaged files", () => {
  it.each(kinds)("%s", async (name, file, read, count) => {
    await Promise.resolve(read(file)).catch((error: unknown) => {
      if (!name.startsWith("folder")) throw error; // those are no whole model
    });
    const next = random(count * 31 + name.length);
    let [taken, slowest] = [0, 0];
    const heap = process.memoryUsage();
    for (let i = 0; i < count; i++) {
      const bytes = damage(file, next);
      const started = cpuMs();
      try {
        await read(bytes);
        taken++;
      } catch (error) {
        if (!(error instanceof CheckpointError)) {
          throw new Error(`mutant ${i} of ${name}, ${Buffer.from(bytes).toString("base64")}: ${String(error)}`, {
            cause: error,
          });
        }
      }
      slowest = Math.max(slowest, cpuMs() - started);
    }
    expect(slowest).toBeLessThan(2000);
    expect(taken).toBeLessThan(count / 2); // else the damage is too mild to show anything
    const grown = process.memoryUsage();
    expect(grown.arrayBuffers - heap.arrayBuffers).toBeLessThan(200e6);
    expect(grown.heapUsed - heap.heapUsed).toBeLessThan(300e6);
  });
  it("are 100,000", () => {
    expect(kinds.reduce((n, [, , , count]) => n + count, 0)).toBe(100_000);
  });
});
