/** What browsers give and take: files of a model, images, tensors on the console; options of the pipeline. */
import { readFileSync, readdirSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { ArgumentError, Device, F, Janus, backward, nn, tensor, toImageData } from "../../index.ts";
import type { ImageInput } from "../../index.ts";
import { fromCanvas, fromImageData } from "../../model/image/web_image.ts";
import { fileSourceOf } from "../../model/io/file_sources.ts";
import type { Files } from "../../model/io/file_sources.ts";
import { IoError } from "../../model/io/errors.ts";
import { fingerprint } from "../../model/janus/load.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { Janus as NodeJanus, encodePng } from "../../model/janus/node/index.ts";
import { errorOf } from "../gpu.ts";

const folder = fileURLToPath(new URL("../../examples/shapes/checkpoint", import.meta.url));
const bytesOf = (name: string): Uint8Array<ArrayBuffer> => new Uint8Array(readFileSync(join(folder, name)));
const names = readdirSync(folder);

/** Serves the model's folder; with ranges as servers have them, or without. */
async function serve<T>(
  options: { ranges: boolean; status?: number; page?: boolean; requested?: string[] },
  use: (url: string) => Promise<T>,
): Promise<T> {
  const server = createServer((request, response) => {
    const name = decodeURIComponent(request.url!.slice("/model/".length));
    options.requested?.push(name);
    if (options.status) return void response.writeHead(options.status).end("no");
    const html = { "content-type": "text/html; charset=utf-8" };
    if (!names.includes(name))
      return void (options.page ? response.writeHead(200, html).end("<!doctype html>") : response.writeHead(404).end());
    const bytes = bytesOf(name);
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    if (!options.ranges || from === undefined) return void response.writeHead(200).end(bytes);
    const range = `bytes ${from}-${to}/${bytes.length}`;
    response.writeHead(206, { "content-range": range }).end(bytes.subarray(Number(from), Number(to) + 1));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    return await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}/model`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

describe("the files of a model", () => {
  const files = names.map((name) => new File([bytesOf(name)], name));
  const check = async (given: Files): Promise<void> => {
    const checkpoint = await openCheckpoint(fileSourceOf("fromFiles", given));
    expect(checkpoint.config.language.hidden).toBeGreaterThan(0);
    expect(checkpoint.parameters.size).toBeGreaterThan(100);
    await checkpoint.close();
  };

  it("are File objects, a FileList, bytes or Blobs by name", async () => {
    await check(files);
    await check(Object.assign({}, files, { length: files.length }) as ArrayLike<File>);
    await check(new Map(files.map((file) => [file.name, file])));
    await check(Object.fromEntries(names.map((name) => [name, bytesOf(name)])));
  });

  it("are on a server, read by ranges or whole", async () => {
    for (const options of [{ ranges: true }, { ranges: false }, { ranges: true, page: true }])
      await serve(options, async (url) => {
        await check(url);
        await check(new URL(`${url}/`));
        const error = await errorOf(() => fileSourceOf("fromFiles", url).open("absent.json"));
        expect(error.message).toContain('there is no file "absent.json"');
      });
  });

  it("that are small are fetched once, however often they are read", async () => {
    const requested: string[] = [];
    await serve({ ranges: true, requested }, async (url) => {
      const checkpoint = await openCheckpoint(fileSourceOf("fromFiles", url));
      await fingerprint(checkpoint);
      await checkpoint.close();
    });
    const weights = requested.filter((name) => name === "model.safetensors");
    expect(weights.length).toBeLessThanOrEqual(2); // its size, then all of it
  });

  it("that cannot be fetched are named", async () => {
    await serve({ ranges: true, status: 403 }, async (url) => {
      const error = await errorOf(() => check(url));
      expect(error).toBeInstanceOf(IoError);
      expect(error.message).toMatch(/must answer; got HTTP 403/);
    });
    expect((await errorOf(() => check("http://127.0.0.1:1/"))).message).toMatch(/must be reachable/);
  });

  it("of any other form are refused before work starts", async () => {
    const inner = new File(["x"], "config.json");
    Object.defineProperty(inner, "webkitRelativePath", { value: "chosen/deep/config.json" });
    const wrong: readonly [unknown, RegExp][] = [
      [undefined, /files must be File objects/],
      [[], /got no file/],
      [{}, /got no file/],
      [[new Blob(["x"])], /Blob without a name/],
      [new Blob(["x"]), /got one file/],
      [[files[0], files[0]], /twice/],
      [[inner], /got "chosen\/deep\/config.json"/],
      [{ "config.json": "{}" }, /config.json with string/],
      ["model folder", /address of a folder on a server|must be that of a folder/],
      ["file:///model", /its protocol is file:/],
    ];
    for (const [given, message] of wrong) {
      const error = await errorOf(() => Janus.fromFiles(given as Files));
      expect(error, String(given)).toBeInstanceOf(ArgumentError);
      expect(error.message).toMatch(message);
    }
  });
});

describe("images", () => {
  const image = { width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 250, 251, 252) };
  const rgba = Uint8ClampedArray.of(1, 2, 3, 255, 250, 251, 252, 255);

  it("go to ImageData and back", () => {
    expect(toImageData(image)).toMatchObject({ width: 2, height: 1, data: rgba });
    expect(toImageData({ image }).data).toEqual(rgba);
    expect(fromImageData({ width: 2, height: 1, data: rgba })).toEqual(image);
    const half = fromImageData({ width: 1, height: 1, data: Uint8ClampedArray.of(0, 100, 255, 51) });
    expect([...half.data]).toEqual([204, 224, 255]); // over white
    expect(() => toImageData({ ...image, width: 3 })).toThrow(ArgumentError);
  });

  it("come from canvases", async () => {
    const context = { getImageData: () => ({ width: 2, height: 1, data: rgba }) };
    expect(fromCanvas({ width: 2, height: 1, getContext: () => context })).toEqual(image);
    const tainted = { getImageData: () => { throw new Error("tainted"); } }; // prettier-ignore
    expect(() => fromCanvas({ width: 2, height: 1, getContext: () => tainted })).toThrow(/cannot be read: tainted/);
    expect(() => fromCanvas({ width: 0, height: 1, getContext: () => context })).toThrow(/must have pixels/);
  });

  it("are taken by the pipeline in every form, in Node Blobs too", async () => {
    class Reader extends NodeJanus {
      read(input: ImageInput): ReturnType<NodeJanus["image"]> {
        return this.image(input);
      }
    }
    const reader = Object.create(Reader.prototype) as Reader;
    Object.assign(reader, { pictures: {} });
    const png = new Uint8Array(await encodePng(image));
    for (const input of [image, { width: 2, height: 1, data: rgba }] as const)
      expect(await reader.read(input)).toEqual(image);
    for (const file of [png, new Blob([png])]) expect(await reader.read(file)).toEqual(image);
    for (const wrong of [3, null, undefined, {}, { ...image, height: 2 }, { data: [1, 2, 3] }])
      expect(await errorOf(() => reader.read(wrong as never)), JSON.stringify(wrong)).toBeInstanceOf(ArgumentError);
    const base = Object.create(Janus.prototype) as Reader;
    expect((await errorOf(() => Reader.prototype.read.call(Object.assign(base, {}), "photo.jpg"))).message).toMatch(/got "photo.jpg". Fetch or decode it first/); // prettier-ignore
  });
});

describe("options of the pipeline", () => {
  it("that are not known are refused before work starts", async () => {
    const janus = Object.create(Janus.prototype) as Janus;
    expect(() => janus.generate("a circle", { guidence: 3 } as never)).toThrow(
      /generate: .*got guidence. Did you mean guidance/,
    );
    expect(() => janus.ask("hi", { maxTokens: 3 } as never)).toThrow(/ask: .*got maxTokens/);
    expect((await errorOf(() => janus.askAll([{ question: "hi" }], { images: [] } as never))).message).toMatch(/askAll: .*got images/); // prettier-ignore
    expect((await errorOf(() => janus.askAll([{ question: "hi", image: 1 } as never]))).message).toMatch(/question 0: .*got image/); // prettier-ignore
    expect((await errorOf(() => Janus.fromFiles([], { dType: "f32" } as never))).message).toMatch(/Did you mean dtype/);
    expect((await errorOf(() => NodeJanus.fromPretrained("x", { cache: 1 } as never))).message).toMatch(/got cache/);
    expect((await errorOf(() => Janus.fromPretrained("x"))).message).toMatch(
      /must have an origin private file system|must exist; got none/,
    );
  });
});

describe("a tensor on the console", () => {
  it("shows shape, dtype and device", async () => {
    const device = await Device.create({ backend: "null" });
    const x = tensor([[1, 2, 3]], { dtype: "bf16", device });
    expect(inspect(x)).toBe(`Tensor([1, 3] bf16 on ${device})`);
    expect(inspect({ x })).toContain("x: Tensor([1, 3] bf16 on Device(");
    const layer = new nn.Linear(3, 2, { device });
    expect(inspect(layer.weight)).toBe(`Parameter([2, 3] f32 on ${device}, requiresGrad)`);
    const y = F.linear(F.zeros([1, 3], { device }), layer.weight);
    expect(inspect(y)).toMatch(/^Tensor\(\[1, 2\] f32 on .*, made by linear\)$/);
    expect(Object.keys(y).slice(0, 3)).toEqual(["shape", "dtype", "device"]);
    backward(y.sum());
    x.dispose();
    expect(inspect(x)).toContain(", disposed)");
    device.destroy();
  });
});
