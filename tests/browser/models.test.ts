/** Models in a real browser: the fixtures' values, drawing and answering with `shapes`, training through the published exports. */
import { readdirSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page } from "playwright-core";
import type { Comparison } from "../../verify/compare.ts";
import { hasFixtures } from "../fixtures.ts";
import { launch, openPage, root, serve } from "./chromium.ts";
import type { ShapesReport } from "./page/jobs.ts";

const tiny = `${root}/../shared/fixtures/tiny`;
const shapes = `${root}/examples/shapes/checkpoint`;

interface Published {
  trainSmall(): Promise<number[]>;
  trainAdapter(model: string): Promise<AdapterReport>;
  askInWorker(model: string): Promise<string>;
}

interface AdapterReport {
  readonly losses: readonly number[];
  readonly written: Readonly<Record<string, number>>;
  readonly adapters: Readonly<Record<string, number>>;
  readonly isMarked: boolean;
}

let browser: Browser;
let page: Page;
let server: Awaited<ReturnType<typeof serve>>;
beforeAll(async () => {
  server = await serve({
    "/": `${root}/.cache/browser/`,
    "/published/": `${root}/.cache/browser_published/`,
    "/shapes/": `${shapes}/`,
    "/fixtures/": `${tiny}/`,
  });
  browser = await launch();
  page = await openPage(browser, `${server.url}/`);
});
afterAll(async () => {
  await browser?.close();
  await server?.stop();
});

describe.skipIf(!hasFixtures)("the fixtures", () => {
  it("every row of verify passes that needs no training", async () => {
    const options = {
      golden: "/fixtures/",
      model: "/fixtures/hf/",
      goldenFiles: readdirSync(tiny, { withFileTypes: true }).flatMap((e) => (e.isFile() ? [e.name] : [])),
      modelFiles: readdirSync(`${tiny}/hf`),
    };
    const rows = (await page.evaluate((given) => window.runInWorker("verify", given), options)) as Comparison[];
    const failed = rows.filter(({ pass }) => pass === false);
    console.log(`verify: ${rows.filter(({ pass }) => pass).length} rows pass, ${failed.length} fail`);
    expect(failed).toEqual([]);
    expect(rows.filter(({ pass }) => pass).length).toBe(37);
  });
});
if (!hasFixtures) console.log("the fixtures are absent: verify did not run in the browser");

describe("shapes", () => {
  it("draws and answers", async () => {
    const options = { model: "/shapes/", prompt: "two red squares", question: "How many squares are there?", seed: 1 };
    const report = (await page.evaluate((given) => window.runJob("shapes", given), options)) as ShapesReport;
    expect(report.width).toBe(32);
    expect(report.tokenIds.length).toBe(64);
    expect(new Set(report.tokenIds).size).toBeGreaterThan(2);
    expect(report.answer).toBe("two");
  });
});

describe("training through the published exports", () => {
  let published: Page;
  beforeAll(async () => {
    published = await openPage(browser, `${server.url}/published/`);
  });

  it("20 steps of a small model lower its loss", async () => {
    const losses = await published.evaluate(() => (window as unknown as Published).trainSmall());
    console.log(`losses: ${losses.map((loss) => loss.toFixed(3)).join(" ")}`);
    expect(losses.length).toBe(20);
    expect(losses.every(Number.isFinite)).toBe(true);
    expect(losses.at(-1)!).toBeLessThan(0.5 * losses[0]!);
  });

  it("a Worker of the published package answers", async () => {
    const answer = await published.evaluate((model) => (window as unknown as Published).askInWorker(model), "/shapes/");
    expect(answer.length).toBeGreaterThan(0);
  });

  it("an adapter trains, is saved to the browser's files, and loads from there", async () => {
    const report = await published.evaluate(
      (model) => (window as unknown as Published).trainAdapter(model),
      "/shapes/",
    );
    expect(report.losses.at(-1)!).toBeLessThan(report.losses[0]!);
    expect(Object.keys(report.written).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
    expect(report.adapters).toEqual({ trained: 1 });
    expect(report.isMarked).toBe(true);
  });
});
