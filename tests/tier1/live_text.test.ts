/** Rows of text that join and leave between tokens, on the tiny fixture: each answer is the one that `generateText` gives alone. */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArgumentError, Device, setDevice } from "../../index.ts";
import { generateText } from "../../model/generate.ts";
import { Janus } from "../../model/janus/node/index.ts";
import { LiveText } from "../../model/live_text.ts";
import type { LiveRow, LiveTextOptions, RowOptions } from "../../model/live_text.ts";
import { PromptError } from "../../model/request.ts";
import { hasFixtures } from "../fixtures.ts";

const folder = fileURLToPath(new URL("../../../shared/fixtures/tiny/hf", import.meta.url));

describe.skipIf(!hasFixtures)("rows that join and leave", () => {
  let device: Device;
  let janus: Janus;
  beforeAll(async () => {
    device = await Device.create({ poison: true });
    setDevice(device);
    janus = await Janus.fromPretrained(folder);
  });
  afterAll(() => device.destroy());

  const idsOf = (text: string): number[] => {
    const { prompts } = janus.processor;
    return prompts.encode(prompts.conversation([{ role: "user", content: text }], { system: "" }));
  };

  type Shared = Omit<LiveTextOptions, "rows" | "capacity">;

  async function alone(ids: readonly number[], options: RowOptions, count: number, shared: Shared): Promise<number[]> {
    const tokens: number[] = [];
    for await (const [token] of generateText(janus.model, [{ ids }], { ...shared, ...options, maxNewTokens: count }))
      tokens.push(token!);
    return tokens;
  }

  const ASKED: readonly { text: string; options: RowOptions; count: number; at: number }[] = [
    { text: "What is this?", options: {}, count: 9, at: 0 },
    { text: "Describe this scene in detail, please.", options: { temperature: 1, seed: 5 }, count: 4, at: 0 },
    { text: "Hi", options: { temperature: 0.8, topP: 0.9, seed: 7 }, count: 8, at: 1 },
    { text: "Hi", options: { temperature: 0.8, topP: 0.9, seed: 8 }, count: 1, at: 2 },
    { text: "And now a longer question about nothing.", options: { temperature: 1.5, seed: 1 }, count: 6, at: 4 },
  ];

  /** Lets the rows of `ASKED` join at their steps; those of `parked` wait outside from step 3 to step 6. */
  async function together(live: LiveText, parked: readonly number[] = []): Promise<number[][]> {
    const made = ASKED.map((): number[] => []);
    const rows = new Map<LiveRow, number>();
    const out = new Map<LiveRow, number>();
    for (let step = 0; rows.size > 0 || out.size > 0 || step <= 4; step++) {
      for (const [row, i] of rows)
        if (step === 3 && parked.includes(i)) {
          live.park(row);
          out.set(row, i);
          rows.delete(row);
        }
      if (step === 6)
        for (const [row, i] of out) {
          live.resume(row);
          rows.set(row, i);
          out.delete(row);
        }
      const { rows: active, tokens } = await live.step();
      const joined = ASKED.flatMap(({ text, options, at }, i) => {
        if (at !== step) return [];
        const { row, first } = live.join({ ids: idsOf(text) }, options);
        rows.set(row, i);
        return [first.then((token) => made[i]!.push(token))];
      });
      for (const [k, token] of (await tokens).entries()) made[rows.get(active[k]!)!]!.push(token);
      await Promise.all(joined);
      for (const [row, i] of rows)
        if (made[i]!.length === ASKED[i]!.count) {
          live.leave(row);
          rows.delete(row);
        }
    }
    return made;
  }

  it.each<[string, Shared]>([
    ["plainly", {}],
    ["from a cache of int8", { cacheDType: "int8" }],
    ["with rules that all rows share", { topK: 30, repetitionPenalty: 1.3, suppressTokens: [300, 301] }],
  ])("answers each as alone: %s", async (_, shared) => {
    const expected: number[][] = [];
    for (const { text, options, count } of ASKED) expected.push(await alone(idsOf(text), options, count, shared));
    await device.sync();
    const before = device.pool.stats.liveBytes;
    const live = new LiveText(janus.model, { rows: 4, capacity: 64, ...shared });
    expect(await together(live)).toEqual(expected);
    expect(await together(live, [0, 2])).toEqual(expected);
    expect(live.free).toBe(4);
    live.dispose();
    await device.sync();
    expect(device.pool.stats.liveBytes, device.pool.table()).toBe(before);
  });

  it.each<[string, Shared]>([
    ["plainly", {}],
    ["with rules that all rows share", { topK: 30, repetitionPenalty: 1.3, suppressTokens: [300, 301] }],
  ])("reads prompts of several lengths together, into the places that are free: %s", async (_, shared) => {
    const expected: number[][] = [];
    for (const { text, options } of ASKED) expected.push(await alone(idsOf(text), options, 3, shared));
    const live = new LiveText(janus.model, { rows: 7, capacity: 64, ...shared });
    const [, between] = live.joinAll(Array.from({ length: 3 }, () => ({ prompt: { ids: idsOf("Hi") }, options: {} })));
    const launches = device.stats.launches;
    live.leave(between!.row); // its place is apart from those behind the others
    const joined = live.joinAll(ASKED.map(({ text, options }) => ({ prompt: { ids: idsOf(text) }, options })));
    const once = device.stats.launches - launches;
    const made = await Promise.all(joined.map(async ({ first }) => [await first]));
    for (let step = 0; step < 2; step++) {
      const { rows, tokens } = await live.step();
      for (const [k, token] of (await tokens).entries())
        made[joined.findIndex(({ row }) => row === rows[k])]?.push(token);
    }
    expect(made).toEqual(expected);
    for (const { row } of joined) live.leave(row);
    const before = device.stats.launches;
    for (const { text, options } of ASKED) live.join({ ids: idsOf(text) }, options);
    expect(once).toBeLessThan(0.6 * (device.stats.launches - before));
    live.dispose();
  });

  it("joins none of several prompts if one cannot be asked", () => {
    const live = new LiveText(janus.model, { rows: 3, capacity: 32 });
    const joining = [{ ids: [5] }, { ids: [] }].map((prompt) => ({ prompt, options: {} }));
    expect(() => live.joinAll(joining)).toThrow(PromptError);
    expect(live.free).toBe(3);
    const four = Array.from({ length: 4 }, () => ({ prompt: { ids: [5] }, options: {} }));
    expect(() => live.joinAll(four)).toThrow(/a row must be free; got 3 in use/);
    expect(live.free).toBe(3);
    live.dispose();
  });

  it("refuses what cannot be asked, before any work", () => {
    const live = new LiveText(janus.model, { rows: 1, capacity: 32 });
    const launches = device.stats.launches;
    expect(() => live.join({ ids: [] })).toThrow(PromptError);
    expect(() => live.join({ ids: new Array<number>(32).fill(5) })).toThrow(/32 tokens; prompt and answer together may have 32/); // prettier-ignore
    expect(() => live.join({ ids: [99999] })).toThrow(/vocabulary/);
    expect(() => live.join({ ids: [5] }, { temperature: -1 })).toThrow(ArgumentError);
    expect(device.stats.launches).toBe(launches);
    expect(() => new LiveText(janus.model, { rows: 65, capacity: 32 })).toThrow(/rows must be .* 1 to 64; got 65/);
    expect(() => new LiveText(janus.model, { rows: 1, capacity: 1e9 })).toThrow(/capacity must be/);
    live.dispose();
  });
});
