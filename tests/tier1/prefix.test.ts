/** A prompt behind a shared beginning: the same bits as the whole prompt at once, and what is refused. */
import "../quick_compile.ts";
import { expect, it } from "vitest";
import { noGrad, scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { advance, arange } from "../../kernels/index.ts";
import { forceVariant } from "../../kernels/core/variants.ts";
import { prefillPrefix } from "../../model/decoding.ts";
import { checkText } from "../../model/generate.ts";
import { KvCache, LlamaModel } from "../../model/llama.ts";
import { PromptError } from "../../model/request.ts";
import { useDevice } from "../gpu.ts";
import { isLong } from "../long.ts";

const device = useDevice();
const config = { vocabulary: 50, hidden: 64, intermediate: 128, layers: 2, heads: 4, kvHeads: 2, headDim: 16, eps: 1e-6, ropeTheta: 1e4 }; // prettier-ignore
const language = { ...config, maxPositions: 300 };

const VARIANTS = ["default", "tiled", "naive"] as const;
/** Tokens of the prompt, and of its beginning. */
const LENGTHS = isLong ? [[2, 1], [33, 32], [70, 1], [70, 69], [130, 64], [257, 200]] : [[2, 1], [70, 33]]; // prettier-ignore

it.each(isLong ? VARIANTS : VARIANTS.slice(0, 2))("the bits of the whole prompt, %s kernels", async (variant) => {
  const model = new LlamaModel(config, { dtype: "bf16" }).setRequiresGrad(false);
  const causal = {
    language,
    device: device(),
    embedText: (ids: Tensor): Tensor => model.embed_tokens.call(ids),
    hidden: model.call.bind(model),
    logits: (hidden: Tensor): Tensor => hidden,
  };
  const forced = <T>(fn: () => T): T =>
    variant === "default" ? fn() : forceVariant("attention", variant, () => forceVariant("matmul", variant, fn));
  for (const [length, past] of LENGTHS as [number, number][]) {
    const ids = Array.from({ length }, (_, i) => (i * 7 + 3) % config.vocabulary);
    const [whole, rest] = [new KvCache(language, 1, length + 5), new KvCache(language, 1, length + 5)];
    const run = (cache: KvCache, from: number): Tensor =>
      noGrad(() =>
        scope(() => {
          const x = causal.embedText(tensor(Int32Array.from(ids.slice(from)), { shape: [1, length - from] }));
          return causal
            .hidden(x, { positions: arange(from, length, 1), cache, past: from })
            .select(1, -1)
            .clone();
        }),
      );
    const [a, b] = forced(() => {
      const prefix = prefillPrefix(causal, { ids: ids.slice(0, past) });
      rest.copyRow(0, prefix, 0, past);
      prefix.dispose();
      return [run(whole, 0), run(rest, past)];
    });
    const bits = async (t: Tensor): Promise<Uint8Array> => t.readBytes();
    expect(await bits(b)).toEqual(await bits(a));
    for (const i of whole.keys.keys())
      for (const part of ["keys", "values"] as const) expect(await bits(rest[part][i]!)).toEqual(await bits(whole[part][i]!)); // prettier-ignore
    for (const one of [a, b, whole, rest]) one.dispose();
  }
  model.dispose();
});

it.each(["bf16", "int8"] as const)(
  "behind a beginning in a cache of %s, tokens read it as decoding does",
  async (dtype) => {
    const model = new LlamaModel(config, { dtype: "bf16" }).setRequiresGrad(false);
    const ids = Array.from({ length: 40 }, (_, i) => (i * 7 + 3) % config.vocabulary);
    const run = (how: { readonly past: number } | { readonly decode: true }): Promise<Uint8Array> => {
      const cache = new KvCache(language, 1, 40, { dtype });
      const states = noGrad(() =>
        scope(() => {
          const part = (from: number, to: number): Tensor => model.embed_tokens.call(tensor(Int32Array.from(ids.slice(from, to)), { shape: [1, to - from] })); // prettier-ignore
          model.call(part(0, 33), { positions: arange(0, 33, 1), cache });
          advance(cache.length, 33);
          return model.call(part(33, 40), { positions: arange(33, 40, 1), cache, ...how });
        }),
      );
      cache.dispose();
      return states.readBytes().finally(() => states.dispose());
    };
    expect(await run({ past: 33 })).toEqual(await run({ decode: true }));
    model.dispose();
  },
);

it("a beginning has fewer ids than its prompt, and all images", () => {
  const cache = (): KvCache => new KvCache(language, 1, 1);
  const check =
    (length: number, placeholder = -1) =>
    () => {
      const images = { embeddings: { dim: () => 1 } as unknown as Tensor, placeholder };
      checkText(language, [{ ids: [1, 2, 3], ...(placeholder >= 0 && { images }), prefix: { length, cache } }], {
        maxNewTokens: 5,
      });
    };
  check(2)();
  check(2, 2)();
  for (const length of [0, 3, 1.5, NaN]) expect(check(length)).toThrow(/a prefix must have a whole number of ids from 1 to 2/); // prettier-ignore
  expect(check(1, 2)).toThrow(PromptError);
});
