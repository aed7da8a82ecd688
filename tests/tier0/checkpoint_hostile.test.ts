/** Wrong files, made by hand: each must give the error of its kind that says what is wrong, at once. */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { bytesFile } from "../../model/io/bytes.ts";
import { parseIndex } from "../../model/janus/checkpoint/checkpoint.ts";
import {
  CheckpointError,
  JsonError,
  PickleError,
  SafetensorsError,
  ShardIndexError,
  UnsafePickleError,
  ZipError,
} from "../../model/io/errors.ts";
import { parseJson } from "../../model/io/json.ts";
import { readTensorPickle } from "../../model/io/pickle.ts";
import { readSafetensors } from "../../model/io/safetensors.ts";
import { readTorchZip } from "../../model/io/torch_zip.ts";
import { P, ascii, concat, safetensors, torchItems, u32, zip } from "../checkpoint/files.ts";
import { hostileIndex, hostileJson, hostileSafetensors } from "../checkpoint/hostile_json.ts";
import type { HostileFile } from "../checkpoint/hostile_json.ts";
import { hostilePickle, hostileZip, rightTorchFile } from "../checkpoint/hostile_torch.ts";

type ErrorClass = abstract new (...args: never[]) => Error;

const cpuMs = (): number => process.cpuUsage().user / 1000; // the machine may be busy with other things

/** One of the classes exactly (not a subclass, not their base), the words, and within 2 s. */
async function mustRefuse(read: () => unknown, classes: readonly ErrorClass[], message: RegExp): Promise<void> {
  const started = cpuMs();
  let error: unknown = null;
  try {
    await read();
  } catch (caught) {
    error = caught;
  }
  expect(error, "nothing was thrown").toBeInstanceOf(Error);
  expect(classes.map((c) => c.name)).toContain((error as Error).constructor.name);
  expect((error as Error).message).toMatch(message);
  expect((error as Error).message.length).toBeLessThan(1000);
  expect(cpuMs() - started).toBeLessThan(2000);
}

const readers: [string, readonly HostileFile[], (bytes: Uint8Array) => unknown, readonly ErrorClass[]][] = [
  ["JSON", hostileJson, (bytes) => parseJson(bytes, "t.json"), [JsonError]],
  [
    "safetensors",
    hostileSafetensors,
    (bytes) => readSafetensors(bytesFile("t.safetensors", bytes)),
    [SafetensorsError, JsonError],
  ],
  ["index", hostileIndex, (bytes) => parseIndex(bytes, "t.json"), [ShardIndexError, JsonError]],
  ["zip", hostileZip, (bytes) => readTorchZip(bytesFile("t.bin", bytes)), [ZipError, PickleError]],
  ["pickle", hostilePickle, (bytes) => readTensorPickle(bytes, "t.bin"), [PickleError, UnsafePickleError]],
];

describe.each(readers)("%s", (_, files, read, classes) => {
  it.each(files)("refuses %s", async (_what, bytes, message) => {
    await mustRefuse(() => read(bytes), classes, message);
  });
  it("has no case twice", () => {
    expect(new Set(files.map(([what]) => what)).size).toBe(files.length);
  });
});

it("names what a pickle asked for", () => {
  const refusedBy = (what: string): string => {
    const [, bytes] = hostilePickle.find(([name]) => name === what)!;
    try {
      readTensorPickle(bytes, "t");
    } catch (error) {
      if (error instanceof UnsafePickleError) return error.refused;
    }
    return "";
  };
  expect(refusedBy("os.system")).toBe("os.system");
  expect(refusedBy("the opcode STACK_GLOBAL")).toBe("STACK_GLOBAL");
});

it("refuses the pickles inside of archives, too", async () => {
  for (const [, pickle, message] of hostilePickle) {
    await expect(readTorchZip(bytesFile("t.bin", zip(torchItems(pickle, { 0: new Uint8Array(12) }))))).rejects.toThrow(
      message,
    );
  }
});

it("takes the file that the wrong archives are made from", async () => {
  expect([...(await readTorchZip(bytesFile("t.bin", rightTorchFile))).keys()]).toEqual(["t"]);
});

it("has at least 100 cases", () => {
  expect(readers.reduce((n, [, files]) => n + files.length, 0)).toBeGreaterThan(200);
});

/** Peak of the memory of this process above what it has now, while `work` runs; Linux lets the mark be reset. */
async function peakBytes(work: () => unknown): Promise<number> {
  const status = (key: string): number =>
    Number(new RegExp(`${key}:\\s+(\\d+) kB`).exec(readFileSync("/proc/self/status", "utf8"))![1]) * 1024;
  writeFileSync("/proc/self/clear_refs", "5");
  const before = status("VmRSS");
  await work();
  return status("VmHWM") - before;
}

/** A few tens of MB that ask for much more. */
const large: [string, () => Uint8Array, (bytes: Uint8Array) => unknown][] = ((): typeof large => {
  const header = (bytes: Uint8Array): unknown => readSafetensors(bytesFile("t", bytes));
  const pickle = (bytes: Uint8Array): unknown => readTensorPickle(bytes, "t");
  const index = (bytes: Uint8Array): unknown => parseIndex(bytes, "t");
  const repeat = (text: string, mb: number): string => text.repeat(Math.floor((mb * 1e6) / text.length));
  const fill = (piece: Uint8Array, bytes: number): Uint8Array => new Uint8Array(Buffer.alloc(bytes, piece));
  const numbered = (mb: number, entry: (i: number) => string): string => {
    const parts: string[] = [];
    for (let [i, n] = [0, 0]; n < mb * 1e6; i++) n += parts.push(entry(i)) && parts[i]!.length + 1;
    return parts.join();
  };
  const inPickle = (piece: Uint8Array, mb = 15): Uint8Array =>
    concat(P.proto(), fill(piece, Math.floor((mb * 1e6) / piece.length) * piece.length), P.stop);
  /** `n` copies of a piece of opcodes; `change` writes what differs. */
  const many = (n: number, piece: Uint8Array, change: (out: Buffer, at: number, i: number) => void): Uint8Array => {
    const out = Buffer.alloc(n * piece.length, piece);
    for (let i = 0; i < n; i++) change(out, i * piece.length, i);
    return concat(P.proto(), P.emptyDict, out, P.stop);
  };
  const longPut = concat([0x72], u32(0));
  const longGet = concat([0x6a], u32(0));
  return [
    ["a name of 40 MB", () => safetensors(`{"${repeat("x", 40)}":1}`), header],
    ["__metadata__ of 40 MB in 6-byte escapes", () => safetensors(`{"__metadata__":{"a":"${repeat("\\u0041", 40)}"}}`), header],
    ["a shape of 20 million", () => safetensors(`{"t":{"shape":[${repeat("1,", 40)}1]}}`), header],
    ["two million keys", () => safetensors(`{"t":{${numbered(20, (i) => `"${i.toString(36)}":1`)}}}`), header],
    ["two million strings in __metadata__", () => safetensors(`{"__metadata__":{${numbered(20, (i) => `"${i.toString(36)}":""`)}}}`), header],
    ["an index of a million other keys", () => ascii(`{${numbered(15, (i) => `"${i.toString(36)}":[]`)}}`), index],
    ["an index with an array of 7 million", () => ascii(`{"x":[${repeat("1,", 15)}1]}`), index],
    ["a pickle of 15 million dictionaries", () => inPickle(P.emptyDict), pickle],
    ["a pickle of dictionaries in tuples", () => inPickle(concat(P.emptyDict, [0x85])), pickle],
    ["a pickle of small tuples", () => inPickle(concat(P.mark, P.none, P.none, [0x74, 0x85, 0x85, 0x85])), pickle],
    ["a pickle of short strings, each in the memo", () => many(600_000, concat(P.mark, P.text("000000"), longPut, P.none, P.setItems), (out, at, i) => (out.write(String(i).padStart(6, "0"), at + 6), out.writeUInt32LE(i, at + 13))), pickle],
    ["a pickle of dictionaries of one entry", () => many(60_000, concat(P.emptyDict, longPut, P.text(""), longGet, P.setItem), (out, at, i) => (out.writeUInt32LE(i, at + 2), out.writeUInt32LE(i, at + 12))), pickle],
    ["a pickle of large integers", () => inPickle(concat([0x8a, 7], new Uint8Array(7).fill(7), [0x85])), pickle],
  ]; // prettier-ignore
})();

describe.skipIf(process.platform !== "linux")("memory stays within four times the header", () => {
  it.each(large)("%s", async (_, make, read) => {
    const bytes = make();
    const started = cpuMs();
    const peak = await peakBytes(async () => {
      try {
        await read(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(CheckpointError);
      }
    });
    expect(cpuMs() - started).toBeLessThan(2000);
    expect(peak).toBeLessThan(4 * bytes.length + 24e6); // the engine's own heap grows in steps
  });
});
