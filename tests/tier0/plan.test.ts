/** The planner of fine-tunings: what fits 8 and 12 GB, the order of methods, settings from the data. */
import { describe, expect, it } from "vitest";
import { memorySize } from "../../cli/options.ts";
import { JANUS_PRO_1B, JANUS_PRO_7B, imageTokens } from "../../model/janus/config.ts";
import { tinyConfig } from "../../model/janus/create.ts";
import { METHODS, planFinetune } from "../../train/plan.ts";
import type { PlanRequest } from "../../train/plan.ts";
import { errorOf } from "../gpu.ts";
import { isLong } from "../long.ts";
import { SMALL } from "../small_model.ts";

/** One record: no more than one row at once is counted. */
const DRAWING = { records: { und: 0, text: 0, gen: 1 }, longest: 640, epochs: 3 };

const SIZES = [
  ["1B", "LoRA", 8e9, JANUS_PRO_1B],
  ["7B", "QLoRA int4", 12e9, JANUS_PRO_7B],
] as const;

it.each(isLong ? SIZES : SIZES.slice(0, 1))(
  "drawing with the %s model by %s fits %d bytes",
  async (_, method, memory, sizes) => {
    const { config, estimate, tried } = await planFinetune({ sizes, memory, method, ...DRAWING });
    expect(estimate.memory.buffers).toBeLessThan(0.94 * memory);
    expect(tried.at(-1)!.fits || tried.some(({ fits }) => fits)).toBe(true);
    expect(config).toMatchObject({ stage: 2, length: 640, dtype: "bf16", batch: 1, steps: 3 });
    expect(config.lora).toMatchObject({ rank: 16, ...(method === "QLoRA int4" && { quantize: "int4" }) });
    expect(estimate.memory.optimizer).toBeLessThan(0.4e9);
  },
);

describe("on a small model", () => {
  const sizes = tinyConfig(SMALL);
  const records = { und: 30, text: 0, gen: 90 };
  const request = (memory: number, more: Partial<PlanRequest> = {}): PlanRequest => ({
    sizes,
    memory,
    records,
    longest: 70,
    epochs: 2,
    ...more,
  });

  it("takes full fine-tuning if it fits, and says what did not fit if it does not", async () => {
    const large = await planFinetune(request(1e12));
    expect(large.method).toBe("full");
    expect(large.config).toMatchObject({ ratios: { und: 4, text: 0, gen: 12 }, batch: 16, steps: 15, length: 128, recompute: false, microRows: 4 }); // prettier-ignore
    expect(large.config.lora).toBeUndefined();
    const [first] = large.tried;
    const tight = await planFinetune(request(first!.bytes! * 0.9));
    expect(METHODS.indexOf(tight.method)).toBeGreaterThan(0);
    expect(tight.tried.filter(({ method }) => method === "full").every(({ fits }) => !fits)).toBe(true);
    const { message } = await errorOf(() => planFinetune(request(1e5, { method: "QLoRA int4" })));
    expect(message).toMatch(/finetune: a step must fit 0.0 GB of memory, 6 % of it spare; got at least/);
    expect(message).toMatch(/QLoRA int4, blocks recomputed, 1 row at once/);
  });

  it("makes rows that hold an image, as long as the longest record, and refuses data without records", async () => {
    const { config } = await planFinetune(request(1e12, { longest: 3, method: "LoRA" }));
    expect(config.length).toBeGreaterThanOrEqual(imageTokens(sizes) + 1);
    expect((await planFinetune(request(1e12, { longest: 9e9, method: "LoRA" }))).config.length).toBeLessThanOrEqual(
      4096,
    );
    const none = { und: 0, text: 0, gen: 0 };
    expect((await errorOf(() => planFinetune(request(1e12, { records: none })))).message).toMatch(
      /at least one good record; got none/,
    );
  });
});

it("sizes of memory are numbers with a unit", () => {
  expect(["12GB", "8 GiB", "800mb", "1.5GB"].map(memorySize)).toEqual([12e9, 8 * 2 ** 30, 8e8, 1.5e9]);
  for (const text of ["12", "GB", "-1GB", "0GB", "12TB", "1e3GB"])
    expect(() => memorySize(text), text).toThrow(/It must be a size such as 12GB/);
});
