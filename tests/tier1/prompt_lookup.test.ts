/** Prompt lookup: the tokens of plain greedy decoding, in fewer steps where texts repeat, and what is refused. */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, NotFiniteError, setDevice } from "../../index.ts";
import { generateText } from "../../model/generate.ts";
import type { TextOptions } from "../../model/generate.ts";
import { Janus } from "../../model/janus/node/index.ts";
import { shippedModel } from "../../model/janus/node/shipped.ts";
import { draftOf } from "../../model/prompt_lookup.ts";
import { hasFixtures } from "../fixtures.ts";
import { errorOf } from "../gpu.ts";
import { isLong } from "../long.ts";

const TINY = fileURLToPath(new URL("../../../shared/fixtures/tiny/hf", import.meta.url));
const IMAGE = fileURLToPath(new URL("../../../shared/fixtures/tiny/image1.png", import.meta.url));

describe("a draft", () => {
  it.each<[name: string, ids: readonly number[], most: number, draft: readonly number[]]>([
    ["follows the last three tokens where they stood before", [1, 2, 3, 4, 5, 9, 1, 2, 3], 2, [4, 5]],
    ["of the latest occurrence", [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1, [5]],
    ["follows the last two if not all three came before", [2, 3, 7, 8, 1, 2, 3], 9, [7, 8, 1, 2, 3]],
    ["may overlap the tokens that are matched", [5, 5, 5, 5], 4, [5]],
    ["is empty if no two tokens came before", [1, 2, 3, 3], 4, []],
    ["is empty if there is no room", [1, 2, 1, 2], 0, []],
    ["is empty for few tokens", [1, 2], 4, []],
  ])("%s", (_, ids, most, draft) => {
    expect(draftOf(ids, most)).toEqual(draft);
  });
});

let device: Device;
beforeAll(async () => {
  device = await Device.create({ poison: true });
  setDevice(device);
});
afterAll(() => device.destroy());

/** Prompts of which the models repeat parts, or themselves. */
const TEXTS = ["What is this?", "red red red red red red", "A red square and a blue circle. A red square and a", "Hi"];

const models: [string, string, boolean][] = [
  ["shapes", shippedModel("shapes")!, true],
  ["the tiny fixture", TINY, hasFixtures],
];
for (const [name, folder, isThere] of models)
  describe.skipIf(!isThere)(name, () => {
    let janus: Janus;
    beforeAll(async () => void (janus = await Janus.fromPretrained(folder, { device })));
    afterAll(() => janus.dispose());

    async function tokensOf(ids: readonly number[], options: TextOptions): Promise<number[]> {
      const tokens: number[] = [];
      for await (const [token] of generateText(janus.model, [{ ids }], options)) tokens.push(token!);
      return tokens;
    }

    it.each(isLong ? ([1, 2, 3, 4, 8, 15] as const) : ([4] as const))(
      "%s tokens at most: the same tokens",
      async (most) => {
        const { prompts } = janus.processor;
        let [steps, accepted, made] = [0, 0, 0];
        for (const text of TEXTS)
          for (const cacheDType of isLong ? (["f32", "bf16", "int8"] as const) : (["f32"] as const)) {
            const ids = prompts.encode(prompts.conversation([{ role: "user", content: text }]));
            const common = { maxNewTokens: 40, cacheDType };
            const plain = await tokensOf(ids, common);
            const onLookup = (step: { readonly accepted: number }): void => {
              steps++;
              accepted += step.accepted;
            };
            await device.sync();
            const before = device.pool.stats.liveBytes;
            expect(await tokensOf(ids, { ...common, promptLookup: most, onLookup }), text).toEqual(plain);
            await device.sync();
            expect(device.pool.stats.liveBytes, device.pool.table()).toBe(before);
            made += plain.length - 1;
          }
        expect(steps + accepted).toBe(made);
        if (name === "shapes") expect(accepted).toBeGreaterThan(made / 10); // random weights repeat nothing
        console.log(`${name}: ${made} tokens in ${steps} steps`);
      },
    );

    it("stops where the answer stops, captured and eager", async () => {
      const options = { maxNewTokens: 12, stopIds: [] };
      const plain = await janus.ask(TEXTS[1]!, options).result();
      for (const more of [{ verify: true }, { eager: true }, { stop: [plain.text.slice(-2)] }]) {
        const { text, tokenIds } = await janus.ask(TEXTS[1]!, { ...options, ...more, promptLookup: 5 }).result();
        if (!more.stop) expect(tokenIds).toEqual(plain.tokenIds);
        else expect([text, plain.text.startsWith(text)]).toEqual([plain.text.slice(0, plain.text.indexOf(more.stop[0]!)), true]); // prettier-ignore
      }
    });
  });

describe.skipIf(!hasFixtures)("the tiny fixture, more", () => {
  let janus: Janus;
  beforeAll(async () => void (janus = await Janus.fromPretrained(TINY, { device })));
  afterAll(() => janus.dispose());

  it("answers about an image with the same tokens", async () => {
    const ask = async (more: object): Promise<readonly number[]> => (await janus.ask("What is this? What is this?", { images: [IMAGE], maxNewTokens: 20, ...more }).result()).tokenIds; // prettier-ignore
    expect(await ask({ promptLookup: 6 })).toEqual(await ask({}));
  });

  it.each<[string, TextOptions, RegExp]>([
    ["no whole number of tokens", { promptLookup: 1.5 }, /promptLookup must be a whole number from 1 to 15; got 1.5/],
    ["more tokens than keep their bits", { promptLookup: 16 }, /from 1 to 15; got 16/],
    ["sampled tokens", { promptLookup: 4, temperature: 1 }, /promptLookup needs temperature 0; got 1/],
    ["a penalty for tokens that were seen", { promptLookup: 4, repetitionPenalty: 1.2 }, /promptLookup needs repetitionPenalty 1; got 1.2/],
  ])("is refused for %s", async (_, options, message) => {
    expect((await errorOf(() => janus.ask("hi", options).text())).message).toMatch(message);
  }); // prettier-ignore

  it("is refused for several prompts", async () => {
    const run = generateText(janus.model, [{ ids: [5] }, { ids: [5] }], { promptLookup: 2 });
    expect((await errorOf(() => run.next())).message).toMatch(/promptLookup needs a single prompt; got 2/);
  });

  it("names the token that is not finite", async () => {
    const broken = await Janus.fromPretrained(TINY, { device });
    broken.model.lm_head.weight.writeBytes(Uint8Array.of(0xc0, 0x7f));
    const error = await errorOf(() => broken.ask("hi", { promptLookup: 3 }).text());
    expect(error).toBeInstanceOf(NotFiniteError);
    expect((error as NotFiniteError).part).toMatch(/language head/);
    broken.dispose();
  });
});
