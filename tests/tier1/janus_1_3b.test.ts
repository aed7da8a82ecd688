/**
 * Janus-1.3B in small: DeepSeek's names in one model.safetensors, its config and processor files with other sizes, a tokenizer whose roles are
 * plain words. Loads and runs in both directions. At full size: tests/tier0/janus_1_3b.test.ts.
 */
import { expect, it } from "vitest";
import { convertCheckpoint } from "../../model/janus/checkpoint/convert.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { Janus } from "../../model/janus/pipeline.ts";
import { memorySink, sourceOfFiles, tinyFiles } from "../checkpoint/tiny.ts";
import type { Files } from "../checkpoint/tiny.ts";
import { CONFIG_1_3B } from "../checkpoint/janus_1_3b.ts";
import { hasFixtures } from "../fixtures.ts";
import { useDevice } from "../gpu.ts";

const device = useDevice();

/** The fixture's weights under the predecessor's files. */
async function predecessor(): Promise<Files> {
  const files = tinyFiles("deepseek");
  const checkpoint = await openCheckpoint(sourceOfFiles(files));
  const sink = memorySink();
  await convertCheckpoint(checkpoint, sink, { layout: "deepseek", sideFiles: files });
  await checkpoint.close();
  const tokenizer = JSON.parse(new TextDecoder().decode(files.get("tokenizer.json"))) as {
    added_tokens: { content: string }[];
  };
  tokenizer.added_tokens = tokenizer.added_tokens.filter(({ content }) => !/^<\|(User|Assistant)\|>$/.test(content));
  return sink.files.set("tokenizer.json", new TextEncoder().encode(JSON.stringify(tokenizer)));
}

it.skipIf(!hasFixtures)("loads and runs in both directions", async () => {
  const files = await predecessor();
  const config = JSON.parse(new TextDecoder().decode(files.get("config.json"))) as Record<string, { params?: object }>;
  for (const key of Object.keys(CONFIG_1_3B)) if (key.endsWith("_config")) expect(config).toHaveProperty(key);
  expect([...files.keys()].filter((name) => /safetensors|bin/.test(name))).toEqual(["model.safetensors"]);
  const notices: string[] = [];
  using janus = await Janus.fromFiles(sourceOfFiles(files), { device: device(), onNotice: (text) => notices.push(text) }); // prettier-ignore
  expect(notices).toEqual([]);

  const image = { width: 8, height: 4, data: Uint8Array.from({ length: 96 }, (_, i) => (i * 37) % 256) };
  const { tokenizer } = janus.processor;
  const answer = await janus.ask("What?", { images: [image], maxNewTokens: 2 }).result();
  const asked = tokenizer.decode(answer.promptTokenIds, { skipSpecials: false });
  expect(asked).toMatch(/natural language\.\n\nUser: <begin_of_image>(<image_placeholder>){64}<end_of_image>\nWhat\?\n\nAssistant:$/); // prettier-ignore
  expect(answer.tokenIds.length).toBeGreaterThan(0);

  const [picture] = await janus.generate("a red circle", { seed: 1, guidance: 5 }).images();
  expect(picture!.tokenIds).toHaveLength(64);
  expect([picture!.image.width, picture!.image.height]).toEqual([64, 64]);
});
