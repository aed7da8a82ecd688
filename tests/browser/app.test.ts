/** The page, built as static files, in a real browser: draw, look, ask, chat, train, the device; accessibility, screenshots, and no blocked frames. */
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page } from "playwright-core";
import { isLong } from "../long.ts";
import { launch, root, serve } from "./chromium.ts";

const shots = `${root}/.cache/screenshots`;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** Compiling for a CPU takes long, and longer on a busy machine. */
const PATIENCE = { timeout: 6 * 60_000 };

interface Watched {
  /** Adapters that the page itself requested, and its tasks above 50 ms. */
  adapters: number;
  longTasks: number[];
  axe: { run(): Promise<{ violations: readonly Violation[] }> };
}

interface Violation {
  readonly id: string;
  readonly impact: string;
  readonly nodes: readonly { readonly html: string }[];
}

/** What axe finds serious. */
async function problems(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => (window as unknown as Watched).axe.run());
  return violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}

async function open(
  browser: Browser,
  url: string,
  size: { width: number; height: number },
  dark = false,
): Promise<Page> {
  const page = await browser.newPage({ viewport: size, colorScheme: dark ? "dark" : "light" });
  await page.addInitScript(() => {
    const watched = window as unknown as Watched;
    watched.adapters = 0;
    watched.longTasks = [];
    const { gpu } = navigator;
    const request = gpu.requestAdapter.bind(gpu);
    gpu.requestAdapter = (options) => (watched.adapters++, request(options));
    new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) watched.longTasks.push(Math.round(duration));
    }).observe({ type: "longtask", buffered: true });
  });
  await page.goto(url);
  return page;
}

describe("the page", () => {
  let browser: Browser;
  let page: Page;
  let server: Awaited<ReturnType<typeof serve>>;
  const errors: string[] = [];
  beforeAll(async () => {
    mkdirSync(shots, { recursive: true });
    server = await serve({ "/": `${root}/dist/app/` });
    browser = await launch();
    page = await open(browser, `${server.url}/#draw`, { width: 1280, height: 860 });
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.getByRole("status").getByText("shapes on").waitFor(PATIENCE);
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });

  it("draws two images with a preview, without work on the page's own thread", async () => {
    await page.evaluate(() => ((window as unknown as Watched).longTasks = []));
    await page.getByRole("button", { name: "Draw", exact: true }).click();
    await page.getByRole("button", { name: /^Image 2: .*details/ }).waitFor(PATIENCE);
    const { adapters, longTasks } = await page.evaluate(() => {
      const { adapters, longTasks } = window as unknown as Watched;
      return { adapters, longTasks };
    });
    console.log(`tasks above 50 ms on the page while it drew: ${longTasks.length ? longTasks.join(", ") : "none"}`);
    expect(adapters).toBe(0);
    const paints = await page.evaluate(() => performance.getEntriesByType("paint").map(({ name, startTime }) => `${name} ${Math.round(startTime)} ms`)); // prettier-ignore
    console.log(paints.join(", "));
    await page.screenshot({ path: `${shots}/draw.png` });
    expect(await problems(page)).toEqual([]);
  });

  it("shows the preview row by row", async () => {
    await page.evaluate(() => {
      const rows: number[] = [];
      (window as unknown as { rows: number[] }).rows = rows;
      const { prototype } = CanvasRenderingContext2D;
      const original = Reflect.get(prototype, "putImageData") as (...args: unknown[]) => void;
      Reflect.set(prototype, "putImageData", function put(this: unknown, image: ImageData, ...rest: unknown[]) {
        rows.push(image.height);
        original.apply(this, [image, ...rest]);
      });
    });
    await page.getByLabel("Images", { exact: true }).fill("1");
    await page.getByRole("button", { name: "Draw", exact: true }).click();
    await page.getByRole("button", { name: "Image 1 is being drawn" }).waitFor(PATIENCE);
    await page.getByRole("button", { name: /^Image 1: .*details/ }).waitFor(PATIENCE);
    const rows = await page.evaluate(() => (window as unknown as { rows: number[] }).rows);
    expect(rows.some((height) => height < 32)).toBe(true);
    expect(rows.at(-1)).toBe(32);
  });

  it("tells how an image was drawn, and draws it again token for token", async () => {
    await page.getByRole("button", { name: /^Image 1: .*details/ }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText("64 tokens").click();
    await dialog.getByRole("button", { name: "Check again" }).click();
    await dialog.getByText("All 64 tokens are the same.").waitFor(PATIENCE);
    await page.screenshot({ path: `${shots}/details.png` });
    expect(await problems(page)).toEqual([]);
    await dialog.getByRole("button", { name: "Ask about it" }).click();
  });

  it("answers about the image that was drawn, and keeps the chat", async () => {
    await page.getByLabel("Message").fill("How many squares are there?");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Regenerate" }).waitFor(PATIENCE);
    await page.getByText("two", { exact: true }).waitFor(PATIENCE);
    await page.screenshot({ path: `${shots}/chat.png` });
    expect(await problems(page)).toEqual([]);
    await page.reload();
    await page.getByText("History (1)").click();
    await page.getByRole("button", { name: "How many squares are there?", exact: true }).click();
    await page.getByText("two", { exact: true }).waitFor(PATIENCE);
    const exported = page.waitForEvent("download");
    await page.getByRole("button", { name: "Export everything as JSON" }).click();
    const { items } = JSON.parse(readFileSync(await (await exported).path(), "utf8")) as { items: { kind: string }[] };
    expect(items.map(({ kind }) => kind).sort()).toEqual(["chat", "picture", "picture", "picture"]);
  });

  /** Losses of the run that the browser has saved. */
  const saved = (): Promise<{ readonly tokenizer: readonly number[]; readonly language: readonly number[] }> =>
    page.evaluate(async () => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("janus-webgpu-training");
      return JSON.parse(await (await (await folder.getFileHandle("state.json")).getFile()).text());
    });
  /** The image of a prompt after some steps. */
  const sample = (prompt: string, steps: number): Promise<string> =>
    page.evaluate((name) => {
      const canvas = document.querySelector<HTMLCanvasElement>(`canvas[aria-label="${name}"]`)!;
      return canvas.toDataURL();
    }, `${prompt} after ${steps} steps`);
  const mean = (values: readonly number[]): number => values.reduce((sum, one) => sum + one, 0) / values.length;

  // Compiling the kernels of training for a CPU takes minutes.
  it.runIf(isLong)("trains the tokenizer, then the language model; stops, and resumes after a reload", async () => {
    await page.getByRole("tab", { name: "Train" }).click();
    await page.getByLabel("Length").selectOption("trial");
    await page.getByRole("button", { name: "Start", exact: true }).click();
    await page.getByText(/^1[7-9] of 30 steps/).waitFor(PATIENCE); // 10 of the tokenizer, 7 of the language model
    await page.getByRole("heading", { name: "After 5 steps" }).waitFor(PATIENCE);
    await page.getByRole("button", { name: "Stop" }).click();
    await page.getByText(/of 30 steps, saved in this browser/).waitFor(PATIENCE);
    const before = await page.getByText(/of 30 steps/).textContent();
    const first = await saved();
    expect([first.tokenizer.length, 10 + first.language.length]).toEqual([10, Number.parseInt(before!, 10)]);
    await page.reload();
    await page.getByText(before!).waitFor(PATIENCE);
    await page.getByRole("button", { name: "Resume" }).click();
    await page.getByText("30 of 30 steps: complete").waitFor(PATIENCE);
    const { language } = await saved();
    console.log(`losses of the language model: ${language.map((loss) => loss.toFixed(2)).join(" ")}; stopped after ${first.language.length}`); // prettier-ignore
    expect(language.slice(0, first.language.length)).toEqual(first.language);
    expect(language).toHaveLength(20);
    expect(mean(language.slice(-4))).toBeLessThan(0.8 * mean(language.slice(0, 4)));
    expect(language[first.language.length]).toBeLessThan(0.9 * language[0]!); // it did not begin again
    expect(await sample("red square", 20)).not.toBe(await sample("red square", 15));
    await page.screenshot({ path: `${shots}/train.png`, fullPage: true });
    expect(await problems(page)).toEqual([]);
  });

  it("describes, tests and measures the device, and exports the report", async () => {
    await page.getByRole("tab", { name: "This device" }).click();
    await page.getByRole("button", { name: "Describe" }).click();
    await page.getByText("Largest buffer").waitFor(PATIENCE);
    await page.getByRole("button", { name: "Self-test" }).click();
    await page.getByText("Self-test: passed").waitFor(PATIENCE);
    await page.getByRole("button", { name: "Bench" }).click();
    await page.getByText("Of the ceiling").waitFor(PATIENCE);
    await page.screenshot({ path: `${shots}/device.png` });
    expect(await problems(page)).toEqual([]);
    const exported = page.waitForEvent("download");
    await page.getByRole("button", { name: "Export JSON" }).click();
    const { device, checks, bench } = JSON.parse(readFileSync(await (await exported).path(), "utf8")) as Record<string, Record<string, unknown>>; // prettier-ignore
    expect(device).toMatchObject({ isSoftware: true, userAgent: expect.stringMatching(/Chrome/) as string });
    expect(checks).toMatchObject({ rows: 60, failures: [] });
    expect(bench!["rows"]).toHaveLength(4);
    expect(errors).toEqual([]);
  });

  it("is usable by keyboard, on a phone, and in the dark", async () => {
    await page.getByRole("tab", { name: "This device" }).click();
    await page.keyboard.press("ArrowRight");
    expect(await page.getByRole("tab", { selected: true }).textContent()).toBe("Chat");
    await page.close();
    const phone = await open(browser, `${server.url}/#draw`, { width: 390, height: 844 });
    await phone.getByRole("button", { name: "Draw", exact: true }).waitFor(PATIENCE);
    await phone.screenshot({ path: `${shots}/phone.png` });
    expect(await phone.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
    await phone.getByRole("button", { name: "Change model" }).click();
    expect(await problems(phone)).toEqual([]);
    await phone.screenshot({ path: `${shots}/phone_models.png` });
    await phone.close();
    const dark = await open(browser, `${server.url}/#chat`, { width: 1280, height: 860 }, true);
    await dark.getByLabel("Message").waitFor(PATIENCE);
    await dark.screenshot({ path: `${shots}/dark.png` });
    expect(await problems(dark)).toEqual([]);
    await dark.close();
  });
});
