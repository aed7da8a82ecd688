/** The worker of the browser, called in Node: what `recover` keeps when it fails. tests/browser has the rest. */
import "../quick_compile.ts";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import type { FileSource } from "../../model/io/bytes.ts";
import { sourceOfFiles, tinyFiles } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";
import { adapterFiles } from "../adapter_files.ts";
import { randomFrom } from "../random.ts";

interface Reply {
  readonly id?: number;
  readonly result?: { readonly fingerprint: string; readonly adapters: object };
  readonly error?: { readonly message: string };
}

let send: (event: { readonly data: object }) => void;
const waiting = new Map<number, (reply: Reply) => void>();
beforeAll(async () => {
  vi.stubGlobal("addEventListener", (_: string, listener: typeof send) => (send = listener));
  vi.stubGlobal("postMessage", (reply: Reply) => waiting.get(reply.id ?? -1)?.(reply));
  await import("../../model/janus/web/worker_main.ts");
});
afterAll(() => vi.unstubAllGlobals());

let next = 0;
/** Calls the worker; its errors are returned. */
const call = (name: string, ...args: readonly unknown[]): Promise<Reply> =>
  new Promise((resolve) => {
    waiting.set(++next, resolve);
    send({ data: { id: next, name, args, callbacks: [] } });
  });

it.skipIf(!hasFixtures)(
  "recover can be called again when the model or an adapter could not be read, and forgets neither",
  async () => {
    const random = randomFrom(3);
    const values = (n: number): Float32Array => Float32Array.from({ length: n }, () => random() - 0.5);
    const adapter = await adapterFiles([["model.language_model.layers.0.self_attn.q_proj", values(256), values(256)]], { width: 128 }); // prettier-ignore
    const broken = new Set<string>();
    const breakable = (name: string, source: FileSource): FileSource => ({
      ...source,
      list: () => (broken.has(name) ? Promise.reject(new Error(`${name} cannot be read`)) : source.list()),
    });
    await call("fromFiles", breakable("model", sourceOfFiles(tinyFiles("hf"))), {});
    await call("loadAdapter", breakable("adapter", adapter), { name: "style" });
    const { result: before } = await call("setAdapters", { style: 0.5 });
    expect(before!.adapters).toEqual({ style: 0.5 });
    await call("loseDevice");
    for (const name of ["model", "adapter"]) {
      broken.add(name);
      expect((await call("recover")).error?.message).toMatch(`${name} cannot be read`);
      expect((await call("setAdapters", {})).error?.message).toMatch(/a model must be loaded/);
      broken.clear();
    }
    expect((await call("recover")).result).toMatchObject({
      adapters: { style: 0.5 },
      fingerprint: before!.fingerprint,
    });
    await call("dispose");
  },
);
