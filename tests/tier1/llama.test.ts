/** A second model on the shared floor: a plain Llama against transformers and PyTorch (tests/llama/make_fixture.py). */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadLlama } from "../../examples/llama/llama.ts";
import type { LlamaForCausalLM } from "../../examples/llama/llama.ts";
import { trainLlama } from "../../examples/llama/run.ts";
import { F, noGrad, scope, tensor } from "../../index.ts";
import { generateText } from "../../model/generate.ts";
import { ConfigError } from "../../model/io/errors.ts";
import { StateDictError } from "../../model/nn/index.ts";
import type { TextTokenizer } from "../../model/tokenizer.ts";
import { errorOf, useDevice } from "../gpu.ts";
import { relativeL2 } from "../harness.ts";

const folder = fileURLToPath(new URL("../llama", import.meta.url));
const golden = JSON.parse(readFileSync(join(folder, "golden.json"), "utf8")) as {
  prompts: { text: string; ids: number[]; last_logits: number[]; logits_norm: number; greedy: number[] }[];
  train: { texts: string[]; rows: number[][]; losses: number[]; norms: number[] };
};
const device = useDevice();
let model: LlamaForCausalLM;
let tokenizer: TextTokenizer;
beforeAll(async () => {
  ({ model, tokenizer } = await loadLlama(folder, device()));
});
afterAll(() => model.dispose());

describe("a plain Llama", () => {
  it.each(golden.prompts)(
    "$text: ids, logits and greedy tokens are those of transformers",
    async ({ text, ids, last_logits: last, logits_norm: norm, greedy }) => {
      expect(tokenizer.encode(text)).toEqual(ids);
      const logits = noGrad(() =>
        scope(() => {
          const input = tensor(Int32Array.from(ids), { shape: [1, ids.length] });
          return model.call(model.embedText(input), { positions: F.arange(0, ids.length) });
        }),
      );
      const values = await logits.data();
      logits.dispose();
      expect(relativeL2([...values.subarray(-last.length)], last)).toBeLessThan(2e-6); // golden has six decimals
      expect(Math.abs(Math.hypot(...values) / norm - 1)).toBeLessThan(2e-6);
      const tokens: number[] = [];
      for await (const [token] of generateText(model, [{ ids }], {
        maxNewTokens: greedy.length,
        temperature: 0,
        verify: true,
      }))
        tokens.push(token!);
      expect(tokens).toEqual(greedy);
    },
  );

  it("trains by the trainer's optimizer as PyTorch does, and leaves nothing on the device", async () => {
    const { rows, losses, norms, texts } = golden.train;
    expect(texts.map((text) => [...tokenizer.encode(text), tokenizer.specials.eos])).toEqual(rows);
    const live = device().pool.stats.liveBytes;
    const fresh = await loadLlama(folder, device());
    const took = await trainLlama(fresh.model, rows, losses.length, 0.01);
    fresh.model.dispose();
    expect(
      relativeL2(
        took.map(({ loss }) => loss),
        losses,
      ),
    ).toBeLessThan(1e-4);
    expect(
      relativeL2(
        took.map(({ norm }) => norm),
        norms,
      ),
    ).toBeLessThan(1e-4);
    expect(device().pool.stats.liveBytes).toBe(live);
  });
});

describe("refused before anything is on the device:", () => {
  const changed = (name: string, change: (text: string) => string): string => {
    const copy = mkdtempSync(join(tmpdir(), "janus-llama-"));
    cpSync(folder, copy, { recursive: true });
    writeFileSync(join(copy, name), change(readFileSync(join(copy, name), "utf8")));
    return copy;
  };
  it.each([
    ["another activation", /"silu"/, '"gelu"', ConfigError, /hidden_act is "gelu"; this example computes silu/],
    [
      "scaled rotary positions",
      /"rope_type": "default"/,
      '"rope_type": "llama3"',
      ConfigError,
      /rope_type is "llama3"/,
    ],
    [
      "scaled rotary positions of older files",
      /"rope_type": "default"/,
      '"type": "linear", "factor": 2',
      ConfigError,
      /unknown keys: type, factor;/,
    ],
    ["a key that is not known", /"use_cache"/, '"sliding_window": 64, "use_cache"', ConfigError, /sliding_window/],
    [
      "a size that is none",
      /"hidden_size": 48/,
      '"hidden_size": 0',
      ConfigError,
      /hidden_size must be a number above 0/,
    ],
    ["sizes of another model", /"hidden_size": 48/, '"hidden_size": 64', StateDictError, /embed_tokens\.weight/],
  ] as const)("%s", async (_, from, to, kind, message) => {
    const live = device().pool.stats.liveBytes;
    const copy = changed("config.json", (text) => text.replace(from, to));
    const error = await errorOf(() => loadLlama(copy, device()));
    rmSync(copy, { recursive: true });
    expect(error).toBeInstanceOf(kind);
    expect(error.message).toMatch(message);
    expect(device().pool.stats.liveBytes).toBe(live);
  });
});
