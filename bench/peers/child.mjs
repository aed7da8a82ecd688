// One engine in a process of its own: `node child.mjs NAME`. Reads requests as JSON lines, answers each with a line behind a mark, for engines print
// too. Inputs and results are files of f32. Requests: prepare {op, inputs: [{shape, file}], output} → {outputs: [file]} or {unsupported};
// round {seconds} → {ms: [...]}; quit.

import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";

const MARK = "@@bench ";
/** Calls are put behind each other until they take so long; then one element is read, for lazy engines drop what nobody reads. */
const BURST_MS = 20;
const MAX_CALLS = 500;
/** A call that takes so long is not changed by cold caches: it is a sample, so that a round of a slow engine is one call. */
const LONG_MS = 200;
/** ONNX Runtime keeps cores busy for 25 s after it has loaded: no engine is measured before its process is quiet. */
const QUIET_SHARE = 0.3;
const QUIET_WAIT_MS = 60_000;

const answer = (message) => process.stdout.write(`${MARK}${JSON.stringify(message)}\n`);

async function openEngine(name) {
  if (name !== "ort-node") {
    // The same Dawn with the same toggles as ours, and the same adapter.
    const { requestGPU } = await import("../../engine/platform.ts");
    const gpu = await requestGPU();
    Object.defineProperty(globalThis, "navigator", {
      value: { gpu, userAgent: "node", platform: process.platform, hardwareConcurrency: 1 },
      configurable: true,
      writable: true,
    });
  }
  const { open } = await import(`./${name.replaceAll("-", "_")}.mjs`);
  return open();
}

/** Waits until this process has stopped computing by itself. */
async function untilQuiet() {
  const end = performance.now() + QUIET_WAIT_MS;
  while (performance.now() < end) {
    const before = process.cpuUsage();
    const began = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { user, system } = process.cpuUsage(before);
    if ((user + system) / 1000 < QUIET_SHARE * (performance.now() - began)) return;
  }
}

const files = (inputs) =>
  inputs.map(({ shape, file }) => {
    const bytes = readFileSync(file);
    return { shape, data: new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4) };
  });

async function prepare(engine, { op, inputs, output }) {
  const make = engine.ops[op];
  if (!make) return { unsupported: `${engine.name} has no ${op}` };
  const call = await make(files(inputs));
  const result = await call.run();
  const values = await call.read(result);
  const outputs = values.map((data, i) => {
    const file = `${output}.${i}`;
    writeFileSync(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return file;
  });
  call.free?.(result);
  return { call, outputs };
}

/** Time of `calls` calls and of reading one element of the last. */
async function burst(call, calls) {
  const began = performance.now();
  const results = [];
  for (let i = 0; i < calls; i++) results.push(await call.run());
  await call.finish(results);
  const ms = performance.now() - began;
  for (const result of results) call.free?.(result);
  return ms / calls;
}

async function round(call, seconds) {
  const end = performance.now() + 1000 * seconds;
  const first = await burst(call, 1); // caches and clocks, after the others' turn
  const ms = first > LONG_MS ? [first] : [];
  const calls = ms.length ? 1 : Math.max(1, Math.min(MAX_CALLS, Math.ceil(BURST_MS / (await burst(call, 1)))));
  while (!ms.length || performance.now() < end) ms.push(await burst(call, calls));
  return ms;
}

const engine = await openEngine(process.argv[2]).catch((error) => {
  answer({ error: `does not start: ${String(error?.message ?? error).split("\n")[0]}` });
  process.exit(0);
});
await untilQuiet();
answer({ ready: true, name: engine.name, version: engine.version, adapter: engine.adapter ?? null });
let current = null;
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  if (request.do === "quit") break;
  try {
    if (request.do === "prepare") {
      current?.dispose?.();
      current = null;
      const { call = null, ...rest } = await prepare(engine, request);
      current = call;
      await untilQuiet();
      answer(rest);
    } else answer({ ms: await round(current, request.seconds) });
  } catch (error) {
    answer({ error: String(error?.message ?? error).split("\n")[0] });
  }
}
process.exit(0);
