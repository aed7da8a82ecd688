/** Rows of the table of cases in the page and in a Worker of a real browser. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page } from "playwright-core";
import { launch, openPage, root, serve } from "./chromium.ts";
import type { AdapterReport, SampleOptions, SampleReport } from "./page/jobs.ts";

const seed = Number(process.env["JANUS_TEST_SEED"] ?? 1);
/** Rows of the sample; half of them run in the page, the other half in a Worker. */
const COUNT = 420;

describe("the table of cases in a browser", () => {
  let browser: Browser;
  let page: Page;
  let server: Awaited<ReturnType<typeof serve>>;
  beforeAll(async () => {
    server = await serve({ "/": `${root}/.cache/browser/` });
    browser = await launch();
    page = await openPage(browser, `${server.url}/`);
    const about = (await page.evaluate(() => window.runJob("adapter", {}))) as AdapterReport;
    console.log(`adapter of ${browser.version()}: ${JSON.stringify(about)}`);
    console.log(`seed ${seed} (JANUS_TEST_SEED=${seed} repeats the sample)`);
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });

  it.each(["page", "Worker"] as const)("in the %s: every row passes, forward and gradients", async (where) => {
    const options: SampleOptions = { seed, count: COUNT, part: where === "page" ? 0 : 1, parts: 2 };
    const report = (await page.evaluate(
      ([given, inPage]) => (inPage ? window.runJob("ops", given) : window.runInWorker("ops", given)),
      [options, where === "page"] as const,
    )) as SampleReport;
    console.log(`${where}: ${report.rows} rows of ${report.ops} ops, ${report.checks} checks`);
    expect(report.failures).toEqual([]);
    expect(report.rows).toBe(COUNT / 2);
    expect(report.bytesLeft).toBe(0);
  });
});
