// Loads a page's module as a browser would from Vite's development server: every module over HTTP, in a context without anything of Node.
// Arguments: the folder of the page, its module, the file of Vite. Prints what the module prints by console.log.

import { pathToFileURL } from "node:url";
import vm from "node:vm";

const [root, page, vite] = process.argv.slice(2);
const { createServer } = await import(pathToFileURL(vite).href);
const server = await createServer({
  root,
  configFile: false,
  logLevel: "warn",
  server: { host: "127.0.0.1", port: 0 },
});
await server.listen();
const origin = server.resolvedUrls.local[0];

/** What modules of the package may use, as browsers have it. */
const shared = ["AbortController", "AbortSignal", "Blob", "DOMException", "Headers", "Response", "TextDecoder", "TextEncoder", "URL", "atob", "btoa", "clearTimeout", "console", "crypto", "performance", "queueMicrotask", "setTimeout", "structuredClone"]; // prettier-ignore
const globals = Object.fromEntries(shared.map((name) => [name, globalThis[name]]));
const context = vm.createContext({ ...globals, fetch: (url, init) => fetch(new URL(url, origin), init) });
vm.runInContext("globalThis.self = globalThis;", context);

const modules = new Map();

/** Returns the module at a URL of the server, with its imports; each once. */
function load(url) {
  if (!modules.has(url)) modules.set(url, fetchModule(url));
  return modules.get(url);
}

async function fetchModule(url) {
  const response = await fetch(url, { headers: { accept: "*/*", "sec-fetch-dest": "script" } });
  const type = response.headers.get("content-type") ?? "";
  if (!response.ok || !/javascript/.test(type)) throw new Error(`${url}: HTTP ${response.status}, ${type}`);
  const importModuleDynamically = async (name) => evaluated(await load(new URL(name, url).href));
  return new vm.SourceTextModule(await response.text(), {
    context,
    identifier: url,
    initializeImportMeta: (meta) => (meta.url = url),
    importModuleDynamically,
  });
}

async function evaluated(module) {
  if (module.status === "unlinked") await module.link((name, from) => load(new URL(name, from.identifier).href));
  await module.evaluate();
  return module;
}

try {
  await evaluated(await load(new URL(page, origin).href));
} catch (error) {
  console.error(error?.stack ?? String(error));
  process.exitCode = 1;
} finally {
  await server.close();
}
process.exit();
