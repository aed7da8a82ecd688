/**
 * `node scripts/run.mjs bench/full_size.ts DIR [--whole]`: a checkpoint of full size on this machine: time to load, beside a copy of its files
 * into new memory; a question and an image as a person asks for them, the most memory that takes, and seconds for each piece of work. Of the
 * image only the first tokens are sampled unless `--whole`. `examples/new_checkpoint.ts DIR --size 1B --layout deepseek` makes a checkpoint of random weights.
 */
import { execFileSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { Device, setDevice } from "../index.ts";
import { folderSource } from "../model/node/index.ts";
import { openCheckpoint } from "../model/janus/checkpoint/checkpoint.ts";
import { Janus } from "../model/janus/node/janus.ts";
import { percentile, table } from "./harness.ts";
import { workloads } from "./workloads.ts";

const [folder, whole] = process.argv.slice(2);
if (!folder || (whole !== undefined && whole !== "--whole")) {
  console.error("usage: node scripts/run.mjs bench/full_size.ts DIR [--whole]");
  process.exit(2);
}
/** The most memory that the process has held, bytes; Linux only. On a software device the GPU's memory is in it. */
const peak = (): number => Number(/VmHWM:\s*(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0) * 1024;
const gb = (bytes: number): string => (bytes / 1e9).toFixed(2);

const checkpoint = await openCheckpoint(folderSource(folder));
const files = new Set([...checkpoint.tensors.values()].map(({ file }) => file));
const fileBytes = [...files].reduce((sum, file) => sum + statSync(join(folder, file)).size, 0);
await checkpoint.close();

const device = await Device.create();
setDevice(device);
console.log(`${device.name}\n${folder}: ${gb(fileBytes)} GB`);
const seconds = async (run: () => unknown): Promise<number> => {
  const started = performance.now();
  await run();
  await device.sync();
  return (performance.now() - started) / 1000;
};
/** Copies files into memory that is new to its process, and prints the seconds; a program of its own, so that our peak is not its. */
const COPY = `const fs = require("node:fs"), started = performance.now();
for (const file of process.argv.slice(1)) {
  const into = new Uint8Array(fs.statSync(file).size), opened = fs.openSync(file, "r");
  for (let at = 0; at < into.length; ) at += fs.readSync(opened, into, at, Math.min(2 ** 24, into.length - at), at);
}
console.log((performance.now() - started) / 1000);`;
const paths = [...files].map((file) => join(folder, file));
const copy = Number(execFileSync(process.execPath, ["-e", COPY, ...paths], { encoding: "utf8" }));
let janus: Janus | undefined;
const load = await seconds(async () => (janus = await Janus.fromPretrained(folder)));
const loadedPeak = peak();
console.log(
  `loaded in ${load.toFixed(1)} s, ${(fileBytes / 1e9 / load).toFixed(2)} GB/s, ${(load / copy).toFixed(2)} × a copy of the file (${copy.toFixed(1)} s); peak memory ${gb(loadedPeak)} GB, ${(loadedPeak / fileBytes).toFixed(2)} × the file`,
);

const { model, config } = janus!;
const side = config.vq.imageSize;
const picture = {
  width: side,
  height: side,
  data: Uint8Array.from({ length: 3 * side * side }, (_, i) => (i * 7) % 256),
};
const told = (what: string): void =>
  console.log(`${what}; peak memory ${gb(peak())} GB, ${(peak() / fileBytes).toFixed(2)} × the file`);

const started = performance.now();
const shown = { tokens: 0, seconds: 0 };
const run = janus!.generate("a red circle", { seed: 1 });
for await (const event of run) {
  if (event.type !== "progress") continue;
  shown.tokens = event.done;
  shown.seconds = (performance.now() - started) / 1000;
  if (!whole && event.done === 24) break;
}
const decodeStarted = performance.now();
if (!whole) device.pool.trim(); // as `generate` does between the two
if (!whole)
  await janus!.decodeImage(Array.from({ length: model.model.vqmodel.side ** 2 }, (_, i) => (37 * i) % config.vq.codes));
const decodeSeconds = whole
  ? (performance.now() - started) / 1000 - shown.seconds
  : (performance.now() - decodeStarted) / 1000;
told(
  `drew ${shown.tokens} guided tokens in ${shown.seconds.toFixed(1)} s, prefill included (${(shown.seconds / shown.tokens).toFixed(3)} s each), decoded a picture in ${decodeSeconds.toFixed(1)} s`,
);
const { promptTokenIds, tokenIds, timings } = await janus!
  .ask("What is it?", { images: [picture], maxNewTokens: 8 })
  .result();
told(
  `asked about a picture: ${promptTokenIds.length} tokens read in ${(timings.prefillMs / 1000).toFixed(1)} s, ${tokenIds.length} written in ${(timings.decodeMs / 1000).toFixed(1)} s`,
);
device.pool.trim();

{
  using work = workloads(model, config);
  const rows: string[][] = [];
  for (const { name, run } of work.list) {
    const times = [await seconds(run), await seconds(run), await seconds(run)];
    rows.push([name, times[0]!.toFixed(2), Math.min(...times.slice(1)).toFixed(2)]);
    console.log(rows.at(-1)!.join("  "));
  }
  for (const [name, decoder] of [
    ["guided image token, replayed", work.image],
    ["text token, replayed", work.text],
  ] as const) {
    await decoder.next();
    const times = [];
    for (let i = 0; i < 10; i++) times.push(await seconds(() => decoder.next()));
    rows.push([
      name,
      "",
      percentile(
        times.sort((a, b) => a - b),
        0.5,
      ).toFixed(3),
    ]);
  }
  console.log(`\n${table(["work", "first s", "then s"], rows)}`);
}
device.destroy();
