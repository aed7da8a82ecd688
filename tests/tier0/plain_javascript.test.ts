/** What plain JavaScript may pass where TypeScript would not compile: typed errors that name it, before any work; nothing is ignored. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { ArgumentError, Device, setDevice } from "../../engine/index.ts";
import { load, nn, readImage, savePicture } from "../../index.node.ts";
import { checkStops } from "../../model/answers.ts";
import { checkText } from "../../model/generate.ts";
import { Janus } from "../../model/janus/node/janus.ts";
import { downloadModel } from "../../model/janus/node/hub.ts";
import { JANUS_TINY } from "../../model/janus/create.ts";
import { PromptError, checkSignal } from "../../model/request.ts";
import { RecordEncoder } from "../../train/node/data/encode.ts";
import { indexSource } from "../../train/node/data/index_file.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-plain-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
const path = join(temporary, "a.jsonl");
writeFileSync(path, '{"text":"a"}\n');
const device = await Device.create({ backend: "null" });
setDevice(device);
afterAll(() => device.destroy());

const png = Uint8Array.of(0x89, 0x50, 0x4e, 0x47);
const text = (options: object): void => checkText(JANUS_TINY.language, [{ ids: [1] }], options);
// `ask` and `generate` refuse these before they look at the model.
const janus = Object.create(Janus.prototype) as Janus;
const fromPretrained = (name?: unknown, options: object = {}): unknown => Janus.fromPretrained(name as string, options);

/** The message, and the call; `never` stands for what TypeScript refuses. */
const rows: [RegExp, () => unknown][] = [
  [/temperature must be 0 .* or a number of at least 1e-6; got 0\.5/, () => text({ temperature: "0.5" })],
  [/topP must be a number above 0, at most 1; got 0\.5/, () => text({ topP: "0.5" })],
  [/repetitionPenalty must be a number above 0 \(1: none\); got 1\.5/, () => text({ repetitionPenalty: "1.5" })],
  [/suppressTokens must be an array; got 3/, () => text({ suppressTokens: 3 })],
  [/stop must be an array; got END/, () => checkStops("END" as never)],
  [/stop must be a list of texts; got 3 in it/, () => checkStops(["END", 3] as never)],
  [/ask: signal must be an AbortSignal; got an object of class AbortController/, () => checkSignal("ask", new AbortController() as never)],
  [/ask: signal must be an AbortSignal; got an object/, () => janus.ask("hi", { signal: {} as never })],
  [/generate: signal must be an AbortSignal/, () => janus.generate("hi", { signal: {} as never })],
  [/generate: the prompt must be a text or a list of texts; got undefined/, () => janus.generate(undefined as never)],
  [/generate: the prompt must be a text or a list of texts; got \["a",3\]/, () => janus.generate(["a", 3] as never)],
  [/fromPretrained: a folder or the name of a model must be given first; got nothing/, () => fromPretrained()],
  [/fromPretrained: device must be a Device; got cuda/, () => fromPretrained(temporary, { device: "cuda" })],
  [/fromPretrained: pictures: options must be plain, .*got plian\. Did you mean plain\?/, () => fromPretrained(temporary, { device, pictures: { plian: true } })],
  [/fromPretrained: onNotice must be a function; got x/, () => fromPretrained(temporary, { device, onNotice: "x" })],
  [/readImage: options must be .*got maxbytes\. Did you mean maxBytes\?/, () => readImage(png, { maxbytes: 1 } as never)],
  [/readImage: maxPixels must be a number above 0; got NaN/, () => readImage(png, { maxPixels: NaN })],
  [/readImage: plain must be true or false; got no/, () => readImage(png, { plain: "no" as never })],
  [/readImage: the path of a file or its bytes must be given; got nothing/, () => readImage(undefined as never)],
  [/encodePicture: a picture of generate must be given; got nothing/, () => savePicture(join(temporary, "x.png"), undefined as never)],
  [/downloadModel: options must be .*got cacheDir/, () => downloadModel("a/b", { cacheDir: "x" } as never)],
  [/load: strict must be true or false; got no/, () => load(new nn.Linear(1, 1), png, { strict: "no" as never })],
  [/a source: options must be .*got taks\. Did you mean task\?/, () => indexSource({ path, taks: "gen" } as never, temporary)],
  [/a source: ignoredFields must be an array; got text/, () => indexSource({ path, ignoredFields: "text" as never }, temporary)],
  [/a source: path must be a path; got nothing/, () => indexSource({} as never, temporary)],
  [/RecordEncoder: options must be .*got drp\. Did you mean drop\?/, () => new RecordEncoder(null as never, { seed: 0, drp: 0 } as never)],
]; // prettier-ignore
it.each(rows)("%s", async (message, call) => {
  const error: unknown = await (async () => call())().catch((thrown: unknown) => thrown);
  expect(error instanceof ArgumentError || error instanceof PromptError).toBe(true);
  expect((error as Error).message).toMatch(message);
});
