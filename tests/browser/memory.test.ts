/** Host memory while a large checkpoint is fetched and loaded in a real browser: the tensors stream, whatever the size of the file. */
import { readFileSync, readdirSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Page } from "playwright-core";
import { Device } from "../../index.ts";
import { parseConfig } from "../../model/janus/config.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { parseJsonObject } from "../../model/io/json.ts";
import type { HubServer } from "../checkpoint/hub_server.ts";
import { isLong } from "../long.ts";
import { openHubPage, shapesFolder } from "./chromium.ts";
import type { HubPage } from "./chromium.ts";
import type { PretrainedJob, PretrainedReport } from "./page/jobs.ts";

const MAX_HOST_MB = 300;

/** The config of `shapes` with the widths and the vocabulary of the 1B model's language model, and four of its layers. */
function wideConfig(): Uint8Array {
  const json = JSON.parse(readFileSync(`${shapesFolder}/config.json`, "utf8")) as Record<
    string,
    Record<string, unknown>
  >;
  Object.assign(json["text_config"]!, { hidden_size: 2048, intermediate_size: 5632, num_attention_heads: 16, num_key_value_heads: 16, head_dim: 128, vocab_size: 102_400 }); // prettier-ignore
  json["vision_config"]!["projection_dim"] = 2048;
  Object.assign(json["vq_config"]!, { projection_dim: 2048, image_token_embed_dim: 2048 });
  return new TextEncoder().encode(JSON.stringify(json));
}

/** Small numbers, in bf16, for every tensor of a model of this config, as a safetensors file. */
async function randomWeights(config: Uint8Array): Promise<Uint8Array> {
  const device = await Device.create({ backend: "null" });
  const model = new JanusForConditionalGeneration(parseConfig(parseJsonObject(config, "config.json")), { device });
  const header: Record<string, object> = {};
  let bytes = 0;
  for (const [name, { shape, size }] of model.namedParameters()) {
    header[name] = { dtype: "BF16", shape, data_offsets: [bytes, bytes + 2 * size] };
    bytes += 2 * size;
  }
  device.destroy();
  const head = Buffer.from(JSON.stringify(header));
  const file = Buffer.alloc(8 + head.length + bytes);
  file.writeBigUInt64LE(BigInt(head.length));
  head.copy(file, 8);
  const block = Buffer.alloc(2 ** 20);
  for (let i = 0; i < block.length / 2; i++) block.writeUInt16LE((i % 2 << 15) + 0x3c00 + ((i * 7919) % 256), 2 * i); // prettier-ignore
  for (let at = 8 + head.length; at < file.length; at += block.length) block.copy(file, at);
  return file;
}

interface Process {
  readonly parent: number;
  readonly kind: string;
  readonly mb: number;
}

/** Resident memory of the processes of Chromium that this process started, by their number. */
function residents(): Map<number, Process> {
  const all = new Map<number, Process>();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      const number = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0);
      const [, kind = "browser"] = /--type=([a-z-]+)/.exec(readFileSync(`/proc/${pid}/cmdline`, "utf8")) ?? [];
      all.set(Number(pid), { parent: number("PPid"), kind, mb: number("VmRSS") / 1024 });
    } catch {
      // It has ended meanwhile.
    }
  }
  const isOurs = (pid: number): boolean => {
    const { parent = 0 } = all.get(pid) ?? {};
    return parent === process.pid || (parent > 1 && isOurs(parent));
  };
  return new Map([...all].filter(([pid]) => isOurs(pid)));
}

/** The most that a process of each kind has grown since the start. */
function growth(before: ReadonlyMap<number, Process>, peaks: ReadonlyMap<number, number>): Record<string, number> {
  const most: Record<string, number> = {};
  for (const [pid, { kind, mb }] of before)
    most[kind] = Math.max(most[kind] ?? 0, Math.round((peaks.get(pid) ?? mb) - mb));
  return most;
}

describe.runIf(isLong && process.platform === "linux")("a checkpoint of 1.3 GB", () => {
  let page: Page;
  let hub: HubServer;
  let opened: HubPage;
  beforeAll(async () => {
    const config = wideConfig();
    opened = await openHubPage({ "config.json": config, "model.safetensors": await randomWeights(config) });
    ({ page, hub } = opened);
  });
  afterAll(() => opened?.stop());

  it.each(["fetched", "stored"])("%s, takes less than 300 MB of the page's process", async (how) => {
    const before = residents();
    const peaks = new Map<number, number>();
    const timer = setInterval(() => {
      for (const [pid, { mb }] of residents()) peaks.set(pid, Math.max(peaks.get(pid) ?? 0, mb));
    }, 50);
    const job: PretrainedJob = { name: "someone/wide", options: { endpoint: hub.url }, device: {} };
    const started = performance.now();
    const report = (await page.evaluate((given) => window.runJob("pretrained", given), job)) as PretrainedReport;
    clearInterval(timer);
    const grown = growth(before, peaks);
    console.log(
      `${how} in ${Math.round((performance.now() - started) / 1000)} s; growth of processes in MB: ${JSON.stringify(grown)}`,
    );
    expect(report.error).toBeUndefined();
    expect(grown["renderer"]).toBeLessThan(MAX_HOST_MB);
  });
});
