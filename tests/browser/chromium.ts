/** Builds the pages of the browser tests, serves them on this machine, and opens them in headless Chromium. */
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { createServer } from "node:http";
import type { Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import type { Browser, Page } from "playwright-core";
import { HubServer, send } from "../checkpoint/hub_server.ts";

export const root = fileURLToPath(new URL("../..", import.meta.url));
const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wgsl": "text/plain",
};

/** Folders by the beginning of their path. */
export type Folders = Readonly<Record<string, string>>;

/** A server of folders, with ranges. */
export async function serve(folders: Folders): Promise<{ url: string; stop: () => Promise<void> }> {
  const server: Server = createServer((request, response) => {
    const { pathname } = new URL(request.url!, "http://localhost");
    answer(folders, decodeURIComponent(pathname), request.headers.range, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const stop = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return { url: `http://127.0.0.1:${port}`, stop };
}

function answer(folders: Folders, path: string, range: string | undefined, response: ServerResponse): void {
  const prefix = Object.keys(folders)
    .sort((a, b) => b.length - a.length)
    .find((start) => path.startsWith(start));
  const rest = prefix === undefined ? "" : path.slice(prefix.length) || "index.html";
  const file = prefix === undefined ? "" : join(folders[prefix]!, rest);
  if (prefix === undefined || rest.includes("..") || !existsSync(file) || !statSync(file).isFile()) {
    response.writeHead(404).end();
    return;
  }
  response.setHeader("content-type", TYPES[extname(file)] ?? "application/octet-stream");
  send(response, new Uint8Array(readFileSync(file)), range);
}

/** What Chromium is told: WebGPU on the CPU, by SwiftShader, which comes with it, and a camera that shows a test picture. */
const FLAGS = [
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-unsafe-swiftshader",
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
];

/** Starts the Chromium that scripts/test_browser.mjs found. */
export const launch = (): Promise<Browser> =>
  chromium.launch({
    executablePath: process.env["JANUS_CHROMIUM"] ?? "/usr/bin/chromium",
    headless: true,
    args: FLAGS,
  });

/** Opens the page of the tests; what it writes to the console as an error goes to `complaints`. */
export async function openPage(browser: Browser, url: string, complaints: string[] = []): Promise<Page> {
  const page = await browser.newPage();
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(url);
  await page.waitForFunction(() => document.title === "ready");
  return page;
}

export const shapesFolder = join(root, "examples", "shapes", "checkpoint");

export interface HubPage {
  readonly hub: HubServer;
  readonly page: Page;
  /** Where the page comes from. */
  readonly url: string;
  readonly stop: () => Promise<void>;
}

/** The page of jobs, and a hub with the files of `shapes`, some of them replaced or added. */
export async function openHubPage(changes: Readonly<Record<string, Uint8Array>>): Promise<HubPage> {
  const hub = await new HubServer().start();
  for (const name of readdirSync(shapesFolder))
    hub.files.set(name, new Uint8Array(readFileSync(join(shapesFolder, name))));
  for (const [name, bytes] of Object.entries(changes)) hub.files.set(name, bytes);
  const server = await serve({ "/": join(root, ".cache", "browser/") });
  const browser = await launch();
  const page = await openPage(browser, `${server.url}/`);
  const stop = async (): Promise<void> => {
    await browser.close();
    await server.stop();
    await hub.stop();
  };
  return { hub, page, url: server.url, stop };
}
