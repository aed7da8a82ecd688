/** The page with a running `janus serve` in a real browser: its key, images from everywhere, edit, regenerate, vary, history. */
import { mkdirSync, readFileSync } from "node:fs";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Browser, Page } from "playwright-core";
import { PICTURE } from "../../examples/shapes/model.ts";
import { render } from "../../examples/shapes/scene.ts";
import { KEY, SHAPES, serveFolder } from "../serve.ts";
import type { TestServer } from "../serve.ts";
import { launch, root } from "./chromium.ts";

const shots = `${root}/.cache/screenshots`;

/** Ends what hangs. */
const SLOW = { timeout: 60_000 };

/** An image of the model's world. */
function picture(shape: "ring" | "square"): Promise<Buffer> {
  const { width, height, data } = render({ background: "black", objects: [{ shape, colour: "cyan", size: 20, x: 34, y: 18 }] }, PICTURE); // prettier-ignore
  return sharp(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

describe("the page of janus serve", () => {
  let server: TestServer;
  let browser: Browser;
  let page: Page;
  const errors: string[] = [];
  beforeAll(async () => {
    mkdirSync(shots, { recursive: true });
    server = await serveFolder(SHAPES, { rows: 4 }, `${root}/dist/app/`);
    browser = await launch();
    page = await browser.newPage({ viewport: { width: 1280, height: 860 }, permissions: ["camera"] });
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.goto(`${server.url}/#chat`);
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });

  const requests = (route: string): number => server.log.filter((line) => line["route"] === route).length;
  const thumbs = () => page.getByRole("button", { name: /^Remove image/ });
  /** Hands an image to the chat as a drop or a paste does. */
  const hand = (kind: "drop" | "paste", bytes: Buffer): Promise<void> =>
    page.getByLabel("Message", { exact: true }).evaluate(
      (element, [how, base64]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], "a.png", { type: "image/png" })); // prettier-ignore
        const event = how === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }) : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }); // prettier-ignore
        element.dispatchEvent(event);
      },
      [kind, bytes.toString("base64")] as const,
    );
  const ask = async (text: string): Promise<void> => {
    await page.getByLabel("Message", { exact: true }).fill(text);
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Regenerate" }).waitFor();
  };

  it("uses the server once it has its key", async () => {
    await page.getByRole("button", { name: "Change model" }).click();
    const key = page.getByLabel("API key");
    await key.fill("another-key");
    await page.getByRole("button", { name: "Use this server" }).click();
    await page.getByText("The server does not accept this key.").waitFor();
    await key.fill(KEY);
    await page.getByRole("button", { name: "Use this server" }).click();
    await page.getByText("small on janus serve").waitFor();
  });

  it("asks about images that were dropped, pasted, and taken", async () => {
    await hand("drop", await picture("ring"));
    await hand("paste", await picture("square"));
    expect(await thumbs().count()).toBe(2);
    await page.getByRole("button", { name: "Camera" }).click();
    await page.getByRole("button", { name: "Take photo" }).click();
    await page.getByRole("dialog").waitFor({ state: "detached" });
    expect(await thumbs().count()).toBe(3);
    for (let left = 2; left > 0; left--) await thumbs().last().click();
    await ask("what colour is it?");
    expect(await page.locator(".turns .user img").count()).toBe(1);
    expect(await page.locator(".turns .assistant p").textContent()).toBe("cyan");
    // The line is written once the stream has ended.
    await expect.poll(() => server.log.findLast(({ route }) => route === "chat"), SLOW).toMatchObject({ status: 200, images: 1, stream: true }); // prettier-ignore
  });

  it("edits a question with its image, regenerates, and keeps the chat", async () => {
    await page.getByRole("button", { name: "Edit" }).click();
    expect(await thumbs().count()).toBe(1);
    expect(await page.locator(".turns li:not(.hint)").count()).toBe(0);
    await ask("what shape is in the picture?");
    expect(await page.locator(".turns .assistant p").textContent()).toBe("ring");
    const before = requests("chat");
    await page.getByRole("button", { name: "Regenerate" }).click();
    await expect.poll(() => requests("chat"), SLOW).toBe(before + 1);
    await page.getByRole("button", { name: "Regenerate" }).waitFor();
    await page.screenshot({ path: `${shots}/server_chat.png` });
    await page.getByRole("button", { name: "New chat" }).click();
    await page.getByText("History (1)").click();
    await page.getByRole("button", { name: "what shape is in the picture?", exact: true }).click();
    await page.locator(".turns .user img").waitFor();
  });

  it("draws with the server's settings, varies with those of the image, and exports", async () => {
    await page.getByRole("tab", { name: "Draw" }).click();
    expect(await page.getByLabel("Guidance").inputValue()).toBe("1.5");
    await page.getByRole("button", { name: "Draw", exact: true }).click();
    await page.getByRole("button", { name: /^Image 2: .*details/ }).waitFor();
    await page.getByLabel("Guidance").fill("4");
    await page.getByRole("button", { name: /^Image 1: .*details/ }).click();
    await page.getByRole("button", { name: "Check again" }).click();
    await page.getByText("All 64 tokens are the same.").waitFor();
    await page.getByRole("button", { name: "Vary" }).click();
    await expect.poll(() => requests("images"), SLOW).toBe(3);
    await page.getByRole("button", { name: /^Image 2: .*details/ }).waitFor();
    expect(await page.getByLabel("Guidance").inputValue()).toBe("1.5");
    expect(await page.getByLabel("Seed", { exact: true }).inputValue()).not.toBe("1");
    await page.screenshot({ path: `${shots}/server_draw.png` });
    await page.getByRole("tab", { name: "Chat" }).click();
    const exported = page.waitForEvent("download");
    await page.getByRole("button", { name: "Export everything as JSON" }).click();
    const { items } = JSON.parse(readFileSync(await (await exported).path(), "utf8")) as { items: { kind: string; guidance?: number }[] }; // prettier-ignore
    expect(items.map(({ kind }) => kind).sort()).toEqual(["chat", ...Array<string>(4).fill("picture")]);
    expect(errors).toEqual([]);
  });

  it("stops an answer: the server sees that the reader left", async () => {
    await page.getByRole("tab", { name: "Draw" }).click();
    await page.getByLabel("Images", { exact: true }).fill("8");
    await page.getByRole("button", { name: "Draw", exact: true }).click();
    await page.getByRole("button", { name: "Stop" }).click();
    await expect.poll(() => server.log.at(-1), SLOW).toMatchObject({ route: "images", error: "client_closed" });
  });
});
