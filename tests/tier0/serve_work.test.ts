/** A request for work: how long it has its place, when it ends, and what it holds meanwhile. */
import { EventEmitter } from "node:events";
import { Hono } from "hono";
import type { Context } from "hono";
import { describe, expect, it } from "vitest";
import { Gate } from "../../serve/app.ts";
import type { Env, Parts } from "../../serve/app.ts";
import { images } from "../../serve/images.ts";
import type { DrawRequest } from "../../serve/pictures.ts";
import { checkSettings } from "../../serve/settings.ts";
import { runWork } from "../../serve/work.ts";
import { errorOf } from "../gpu.ts";

describe("work", () => {
  /** A request on a connection, as far as `runWork` looks at it. */
  function request(queue: number): { c: Context<Env>; parts: Parts; socket: EventEmitter; outgoing: EventEmitter } {
    const [socket, outgoing] = [new EventEmitter(), new EventEmitter()];
    const c = { env: { incoming: { socket }, outgoing }, set: () => undefined } as unknown as Context<Env>;
    const settings = checkSettings({ name: "m", queue, rows: 1 });
    return { c, parts: { settings, gate: new Gate(settings) } as unknown as Parts, socket, outgoing };
  }
  const ticks = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));

  it("has its place, and what it holds, until its answer has left", async () => {
    const { c, parts, outgoing } = request(0);
    let held = true;
    await runWork(c, parts, async (work) => {
      work.hold(() => (held = false));
      return new Response("a long answer");
    });
    await ticks();
    expect([parts.gate.count, held]).toEqual([1, true]);
    outgoing.emit("close");
    await ticks();
    expect([parts.gate.count, held]).toEqual([0, false]);
  });

  it("ends with its connection, also while its answer waits behind others", async () => {
    const { c, parts, socket } = request(0);
    const ended = runWork(c, parts, ({ signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)))); // prettier-ignore
    socket.emit("close");
    expect(await errorOf(() => ended)).toMatchObject({ status: 499 });
    await ticks();
    expect(parts.gate.count).toBe(0);
  });

  it("has its place until it has ended, though the client has left", async () => {
    const { c, parts, outgoing } = request(0);
    let end = (): void => undefined;
    const ended = runWork(c, parts, () => new Promise((resolve) => (end = () => resolve(new Response("")))));
    outgoing.emit("close");
    await ticks();
    expect(parts.gate.count).toBe(1);
    end();
    await ended;
    await ticks();
    expect(parts.gate.count).toBe(0);
  });

  it("partial images that nobody takes do not pile up", async () => {
    const { c: base, parts: few, outgoing } = request(0);
    const picture = { width: 2, height: 2, data: new Uint8Array(12) };
    const processor = {
      prompts: { encode: () => [1, 2], generation: String },
      drawing: { guidance: 1, temperature: 1 },
    };
    const model = { requirePart: () => undefined, model: { vqmodel: { side: 16, imageSize: 2 } } };
    const janus = { model, processor, config: { language: { maxPositions: 999 } } };
    const draw = async ({ seeds, onPartial, onPicture }: DrawRequest): Promise<object> => {
      for (let part = 0; part < 15; part++) for (const index of seeds.keys()) onPartial(index, part, picture);
      for (const [index, seed] of seeds.entries()) onPicture(index, { image: picture, prompt: "a", seed, guidance: 1, temperature: 1, topK: undefined, topP: undefined, model: "m", tokenIds: [1] }); // prettier-ignore
      return { pictures: [], queuedMs: 0 };
    };
    const app = new Hono<Env>();
    const parts = { ...few, host: { model: { janus }, draw }, bodies: { json: (_: unknown, use: (body: unknown) => unknown) => use({ model: "m", prompt: "a", n: 2, stream: true, partial_images: 15 }) } } as unknown as Parts; // prettier-ignore
    app.get("/", (c) => images(c, parts));
    const said = await (await app.request("/", {}, base.env)).text();
    outgoing.emit("close");
    expect(said.match(/^event: .*$/gm)).toEqual([...Array<string>(4).fill("event: image_generation.partial_image"), ...Array<string>(2).fill("event: image_generation.completed")]); // prettier-ignore
  });
});
