/** A model in a Worker by `createJanusWorker`, in a real browser. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page } from "playwright-core";
import { launch, openPage, root, serve } from "./chromium.ts";
import type { WorkerReport } from "./page/jobs.ts";

describe("createJanusWorker", () => {
  let browser: Browser;
  let page: Page;
  let server: Awaited<ReturnType<typeof serve>>;
  beforeAll(async () => {
    server = await serve({ "/": `${root}/.cache/browser/`, "/shapes/": `${root}/examples/shapes/checkpoint/` });
    browser = await launch();
    page = await openPage(browser, `${server.url}/`);
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });

  it("draws with previews, refuses with typed errors, aborts, tells the loss of the device and recovers", async () => {
    const options = { model: "/shapes/", prompt: "two red squares", question: "How many squares are there?", seed: 1 };
    const report = (await page.evaluate((given) => window.runJob("worker", given), options)) as WorkerReport;
    expect(report.first.length).toBe(64);
    expect(report.rows.some((height) => height > 0 && height < 32)).toBe(true);
    expect(report.answer).toBe("two");
    expect(report.refusedKind).toBe("ArgumentError");
    expect(report.abortedKind).toBe("AbortError");
    expect(report.lost).toMatch(/JanusWorker: the device must be alive; got a loss of the device/);
    expect(report.lostKind).toBe("DeviceLostError");
    expect(report.again).toEqual(report.first);
  });
});
