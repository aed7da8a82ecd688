/** Picture files: every kind that is read, as a person sees it and plain, limits, damage, and PNG with text. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { afterAll, describe, expect, it } from "vitest";
import { ArgumentError } from "../../engine/errors.ts";
import { ImageError, ImageFormatError, ImageLimitError } from "../../model/image/image.ts";
import { insertTextChunks, readTextChunks } from "../../model/image/png_text.ts";
import { encodePng, readImage, readPngText } from "../../model/node/image_file.ts";
import { fillBytes } from "../fixtures.ts";

const folder = mkdtempSync(join(tmpdir(), "janus-image-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const [W, H] = [7, 5];
const bytes = fillBytes("picture", W * H * 4);
const raw = (channels: 1 | 2 | 3 | 4) =>
  sharp(bytes.slice(0, W * H * channels), { raw: { width: W, height: H, channels } });
const rgbOf = (channels: 1 | 2 | 3 | 4): number[] =>
  Array.from(
    { length: W * H * 3 },
    (_, i) => bytes[channels < 3 ? Math.floor(i / 3) * channels : Math.floor(i / 3) * channels + (i % 3)]!,
  );
const onWhite = (channels: 2 | 4): number[] =>
  rgbOf(channels).map((level, i) => {
    const alpha = bytes[Math.floor(i / 3) * channels + channels - 1]!;
    return Math.round((level * alpha) / 255 + 255 - alpha);
  });
const both = async (file: Uint8Array): Promise<{ seen: number[]; plain: number[] }> => {
  const [seen, plain] = [await readImage(file), await readImage(file, { plain: true })];
  expect([seen.width, seen.height, plain.width, plain.height]).toEqual([W, H, W, H]);
  return { seen: [...seen.data], plain: [...plain.data] };
};

/** One row of pixels of four inks as an uncompressed TIFF. */
function cmykTiff(inks: number[]): Uint8Array {
  const entries: [tag: number, type: 3 | 4, count: number, value: number][] = [
    [256, 4, 1, inks.length / 4], // width
    [257, 4, 1, 1], // height
    [258, 3, 4, 8 + 2 + 9 * 12 + 4], // offset of the bits of each ink
    [259, 3, 1, 1], // not compressed
    [262, 3, 1, 5], // inks
    [273, 4, 1, 8 + 2 + 9 * 12 + 4 + 8], // offset of the pixels
    [277, 3, 1, 4], // inks a pixel
    [278, 4, 1, 1],
    [279, 4, 1, inks.length],
  ];
  const file = new Uint8Array(entries[5]![3] + inks.length);
  const view = new DataView(file.buffer);
  file.set([0x49, 0x49, 42, 0, 8, 0, 0, 0, entries.length, 0]);
  for (const [i, [tag, type, count, value]] of entries.entries()) {
    view.setUint16(10 + i * 12, tag, true);
    view.setUint16(12 + i * 12, type, true);
    view.setUint32(14 + i * 12, count, true);
    view.setUint32(18 + i * 12, value, true);
  }
  for (let i = 0; i < 4; i++) view.setUint16(entries[2]![3] + i * 2, 8, true);
  file.set(inks, entries[5]![3]);
  return file;
}

describe("readImage", () => {
  const lossless: [string, () => Promise<Buffer>, number[]][] = [
    ["RGB PNG", () => raw(3).png().toBuffer(), rgbOf(3)],
    ["interlaced PNG", () => raw(3).png({ progressive: true }).toBuffer(), rgbOf(3)],
    ["grey PNG", () => raw(1).toColourspace("b-w").png().toBuffer(), rgbOf(1)],
    ["palette PNG", () => raw(3).png({ palette: true, colours: 256, dither: 0, quality: 100 }).toBuffer(), rgbOf(3)],
    ["WebP", () => raw(3).webp({ lossless: true }).toBuffer(), rgbOf(3)],
    ["TIFF", () => raw(3).tiff({ compression: "lzw" }).toBuffer(), rgbOf(3)],
    ["grey TIFF", () => raw(1).toColourspace("b-w").tiff({ compression: "none" }).toBuffer(), rgbOf(1)],
  ];
  it.each(lossless)("reads a %s, the same way in both manners", async (_, make, expected) => {
    const { seen, plain } = await both(await make());
    expect(seen).toEqual(expected);
    expect(plain).toEqual(expected);
  });

  const transparent: [string, () => Promise<Buffer>, number[], number[]][] = [
    ["RGBA PNG", () => raw(4).png().toBuffer(), onWhite(4), rgbOf(4)],
    ["grey PNG with alpha", () => raw(2).toColourspace("b-w").png().toBuffer(), onWhite(2), rgbOf(2)],
    ["WebP with alpha", () => raw(4).webp({ lossless: true, exact: true }).toBuffer(), onWhite(4), rgbOf(4)],
  ];
  it.each(transparent)("puts a %s on white, or drops the alpha", async (_, make, white, dropped) => {
    const { seen, plain } = await both(await make());
    expect(seen).toEqual(white);
    expect(plain).toEqual(dropped);
  });

  it("takes the high byte of 16 bits", async () => {
    const words = Uint16Array.from({ length: W * H * 3 }, (_, i) => (bytes[i]! << 8) | ((i * 37) & 255));
    words.set([0, 255, 256, 65535]);
    const high = Array.from(words, (word) => word >> 8);
    const colour = sharp(words, { raw: { width: W, height: H, channels: 3 } });
    const { seen, plain } = await both(await colour.clone().toColourspace("rgb16").png().toBuffer());
    expect(seen).toEqual(high);
    expect(plain).toEqual(high);
    const grey = sharp(words.slice(0, W * H), { raw: { width: W, height: H, channels: 1 } });
    const file = await grey.toColourspace("grey16").png().toBuffer();
    expect((await sharp(file).metadata()).depth).toBe("ushort");
    expect((await both(file)).seen).toEqual(Array.from({ length: W * H * 3 }, (_, i) => high[Math.floor(i / 3)]!));
  });

  it("converts CMYK by the share of black, whatever profile is embedded", async () => {
    // Full black, no ink, one ink, half of each.
    const file = cmykTiff([0, 0, 0, 255, 0, 0, 0, 0, 255, 0, 0, 0, 128, 64, 32, 128]);
    expect((await sharp(file).metadata()).space).toBe("cmyk");
    const [seen, plain] = [await readImage(file), await readImage(file, { plain: true })];
    expect(seen).toEqual(plain);
    expect([...seen.data]).toEqual([0, 0, 0, 255, 255, 255, 0, 255, 255, 63, 95, 111]);
    const jpeg = await sharp(fillBytes("photo", 48 * 48 * 3), { raw: { width: 48, height: 48, channels: 3 } })
      .toColourspace("cmyk")
      .jpeg()
      .toBuffer();
    expect((await sharp(jpeg).metadata()).space).toBe("cmyk");
    expect(await readImage(jpeg)).toEqual(await readImage(jpeg, { plain: true }));
  });

  it("reads JPEG without its colour profile", async () => {
    const picture = sharp(fillBytes("photo", 48 * 40 * 3), { raw: { width: 48, height: 40, channels: 3 } });
    const jpeg = await picture.clone().jpeg({ quality: 95 }).toBuffer();
    const wide = await picture.clone().jpeg({ quality: 95 }).withIccProfile("p3", { attach: true }).toBuffer();
    expect((await sharp(wide).metadata()).icc).toBeDefined();
    expect((await readImage(jpeg)).data.length).toBe(48 * 40 * 3);
    const stored = await sharp(wide, { ignoreIcc: true }).raw().toBuffer();
    expect([...(await readImage(wide)).data]).toEqual([...stored]);
    expect(await readImage(wide)).toEqual(await readImage(wide, { plain: true }));
  });

  // Position of the stored first row and first column in the upright picture (EXIF 2.32, tag 274).
  const upright: ((x: number, y: number) => [number, number])[] = [
    (x, y) => [x, y],
    (x, y) => [W - 1 - x, y],
    (x, y) => [W - 1 - x, H - 1 - y],
    (x, y) => [x, H - 1 - y],
    (x, y) => [y, x],
    (x, y) => [H - 1 - y, x],
    (x, y) => [H - 1 - y, W - 1 - x],
    (x, y) => [y, W - 1 - x],
  ];
  it.each(upright.map((to, i) => ({ orientation: i + 1, to })))(
    "turns EXIF orientation $orientation upright",
    async ({ orientation, to }) => {
      for (const format of ["png", "webp", "tiff"] as const) {
        const options =
          format === "webp" ? { lossless: true } : format === "tiff" ? { compression: "none" as const } : {};
        const file = await raw(3).toFormat(format, options).withMetadata({ orientation }).toBuffer();
        const plain = await readImage(file, { plain: true });
        expect([...plain.data]).toEqual(rgbOf(3));
        const seen = await readImage(file);
        expect([seen.width, seen.height]).toEqual(orientation > 4 ? [H, W] : [W, H]);
        for (let y = 0; y < H; y++) {
          for (let x = 0; x < W; x++) {
            const [u, v] = to(x, y);
            const at = (v * seen.width + u) * 3;
            expect(Array.from(seen.data.subarray(at, at + 3))).toEqual(
              rgbOf(3).slice((y * W + x) * 3, (y * W + x) * 3 + 3),
            );
          }
        }
      }
    },
  );

  it.each(["gif", "webp"] as const)("takes the first frame of an animated %s", async (format) => {
    // Two frames one above the other: black, then white.
    const frames = Uint8Array.from({ length: W * H * 2 * 3 }, (_, i) => (i < W * H * 3 ? 0 : 255));
    const options = format === "webp" ? { lossless: true, loop: 0, delay: [50, 50] } : { loop: 0, delay: [50, 50] };
    const file = await sharp(frames, { raw: { width: W, height: H * 2, channels: 3, pageHeight: H } })
      .toFormat(format, options)
      .toBuffer();
    expect((await sharp(file, { pages: -1 }).metadata()).pages).toBe(2);
    const { seen, plain } = await both(file);
    expect(new Set([...seen, ...plain])).toEqual(new Set([0]));
  });

  it("reads from a path, and says what is wrong with one", async () => {
    const path = join(folder, "picture.png");
    writeFileSync(path, await raw(3).png().toBuffer());
    expect([...(await readImage(path)).data]).toEqual(rgbOf(3));
    await expect(readImage(join(folder, "absent.png"))).rejects.toThrow(ImageError);
    await expect(readImage(join(folder, "absent.png"))).rejects.toThrow(/absent\.png.*no such file/);
    await expect(readImage(folder)).rejects.toThrow(/is not a file/);
    await expect(readImage(path, { maxBytes: 10 })).rejects.toThrow(ImageLimitError);
  });
});

describe("limits", () => {
  // A PNG of 30,000 × 30,000 that says so in its header and holds nothing: decoding it would take 2.7 GB.
  const bomb = async (width: number, height: number): Promise<Uint8Array> => {
    const file = await raw(1).png().toBuffer();
    const out = new Uint8Array(file);
    const view = new DataView(out.buffer);
    view.setUint32(16, width);
    view.setUint32(20, height);
    let crc = 0xffffffff;
    for (const byte of out.subarray(12, 29)) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    }
    view.setUint32(29, (crc ^ 0xffffffff) >>> 0);
    return out;
  };
  it("does not blame the picture where the machine is short of open files", () => {
    const path = join(folder, "whole.png");
    writeFileSync(path, "never read");
    const module = new URL("../../model/node/index.ts", import.meta.url).href;
    const codes = new URL("../../train/node/data/codes.ts", import.meta.url).href;
    const program = `import { openSync } from "node:fs";
      import { FileError, readImage } from ${JSON.stringify(module)};
      import { CodeCache } from ${JSON.stringify(codes)};
      const about = { weights: "w", dtype: "f32", imageSize: 8, tokens: 4, codes: 8, plain: false };
      const cache = await CodeCache.open(${JSON.stringify(join(folder, "cache"))}, about);
      const code = cache.source(async () => []);
      try { for (;;) openSync("/dev/null"); } catch {}
      for (const read of [readImage, code]) {
        const error = await read(${JSON.stringify(path)}).catch((thrown) => thrown);
        console.log(error instanceof FileError, error.code, error.message);
      }`;
    const tsx = import.meta.resolve("tsx");
    const script = 'ulimit -n 200; exec "$0" --import "$1" --input-type=module -e "$2"';
    const { stdout, stderr } = spawnSync("sh", ["-c", script, process.execPath, tsx, program], { encoding: "utf8" });
    const said = "true EMFILE .*whole\\.png cannot be opened: too many files are open.*\\n";
    expect(stdout, stderr).toMatch(new RegExp(`^${said}${said}$`));
  });
  it("refuses too many pixels before it decodes any", async () => {
    const before = process.memoryUsage().rss;
    for (const [width, height] of [[30_000, 30_000], [1_000_000, 90], [2, 900_000]] as const) {
      await expect(readImage(await bomb(width, height))).rejects.toThrow(ImageLimitError);
    } // prettier-ignore
    await expect(readImage(await bomb(30_000, 30_000), { name: "big.png" })).rejects.toThrow(
      /big\.png is 30000×30000; at most 100000000 pixels/,
    );
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * 2 ** 20);
  });
  it("takes a limit of the caller", async () => {
    const file = await raw(3).png().toBuffer();
    await expect(readImage(file, { maxPixels: W * H - 1 })).rejects.toThrow(ImageLimitError);
    await expect(readImage(file, { maxBytes: file.length - 1 })).rejects.toThrow(ImageLimitError);
    expect((await readImage(file, { maxPixels: W * H, maxBytes: file.length })).width).toBe(W);
  });
});

describe("damage", () => {
  const size = { width: 64, height: 48, channels: 3 } as const;
  const noise = () => sharp(fillBytes("noise", 64 * 48 * 3), { raw: size });
  const formats: [string, () => Promise<Buffer>][] = [
    ["jpeg", () => noise().jpeg().toBuffer()],
    ["progressive jpeg", () => noise().jpeg({ progressive: true }).toBuffer()],
    ["png", () => noise().png().toBuffer()],
    ["webp", () => noise().webp().toBuffer()],
    ["lossless webp", () => noise().webp({ lossless: true }).toBuffer()],
    ["gif", () => noise().gif().toBuffer()],
    ["tiff", () => noise().tiff({ compression: "lzw" }).toBuffer()],
    ["avif", () => noise().avif({ effort: 0 }).toBuffer()],
  ];
  it.each(formats)("finds a %s that is cut off, and survives flipped bits", async (_, make) => {
    const file = new Uint8Array(await make());
    expect((await readImage(file)).data.length).toBe(64 * 48 * 3);
    for (const share of [0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97]) {
      await expect(readImage(file.subarray(0, Math.floor(file.length * share)))).rejects.toThrow(ImageFormatError);
    }
    const places = fillBytes("flips", 60);
    for (let i = 0; i < 20; i++) {
      const broken = file.slice();
      for (const j of [0, 1, 2]) broken[Math.floor((places[i * 3 + j]! / 256) ** 2 * broken.length)]! ^= 1 << (i % 8);
      await readImage(broken, { maxPixels: 1e6 }).catch((error: unknown) => expect(error).toBeInstanceOf(ImageError));
    }
  });
  const unknown: [string, Uint8Array][] = [
    ["nothing", new Uint8Array(0)],
    ["text", new TextEncoder().encode("hello, I am no picture")],
    ["SVG", new TextEncoder().encode('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')],
    ["PDF", new TextEncoder().encode("%PDF-1.7\n")],
    ["zeros", new Uint8Array(1000)],
  ];
  it.each(unknown)("refuses %s", async (_, file) => {
    await expect(readImage(file, { name: "x" })).rejects.toThrow(ImageFormatError);
    await expect(readImage(file, { name: "x" })).rejects.toThrow(/^x is (not an image of a known format|a \w+ file)/);
  });
  it.each([
    ["HEIC", "\0\0\0\x18ftypheic\0\0\0\0mif1heic"],
    ["HEIC", "\0\0\0\x18ftypmif1\0\0\0\0mif1heic"],
    ["BMP", "BM\x46\0\0\0"],
    ["JPEG XL", "\0\0\0\x0cJXL \r\n\x87\n"],
    ["JPEG 2000", "\0\0\0\x0cjP  \r\n\x87\n"],
    ["SVG", '<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>'],
  ])("names %s, which is not read", async (format, head) => {
    const file = Uint8Array.from({ length: 100 }, (_, i) => head.charCodeAt(i) || 0);
    await expect(readImage(file, { name: "x" })).rejects.toThrow(`x is a ${format} file, which is not read; JPEG, PNG`);
  });
});

describe("encodePng and readPngText", () => {
  const picture = { width: W, height: H, data: bytes.slice(0, W * H * 3) };
  const texts = {
    prompt: "a red circle",
    Comment: "Größe ½ ñ",
    "long key with spaces": "line one\nline two",
    emoji: "🐳 里 \ufeff e\u0301",
    empty: "",
    tokens: JSON.stringify(Array.from({ length: 576 }, (_, i) => (i * 37) % 16384)),
    control: "tab\tbell\u0007",
    half: "\ud83d",
  };
  it("stores the picture losslessly and the texts exactly", async () => {
    const png = await encodePng(picture, texts);
    expect([...(await readImage(png)).data]).toEqual([...picture.data]);
    const read = readPngText(png);
    expect(Object.fromEntries(read)).toEqual({ ...texts, half: "\ufffd" });
    expect([...read.keys()]).toEqual(Object.keys(texts));
    expect(readPngText(await encodePng(picture)).size).toBe(0);
    // sharp's own decoder checks every checksum, and finds the same texts.
    expect((await sharp(png).metadata()).comments).toContainEqual({ keyword: "prompt", text: "a red circle" });
  });
  it("reads compressed texts of other programs, and refuses those that unpack too far", async () => {
    const png = await encodePng(picture);
    const packed = (type: "zTXt" | "iTXt", text: Uint8Array): Uint8Array => {
      const marker = insertTextChunks(png, { key: "x" }); // its chunk is replaced
      const head = new TextEncoder().encode(type === "zTXt" ? `${type}key\0\0` : `${type}key\0\u0001\0en\0\0`);
      const data = new Uint8Array([...head, ...deflateSync(text)]);
      const chunk = new Uint8Array(data.length + 8);
      new DataView(chunk.buffer).setUint32(0, data.length - 4);
      chunk.set(data, 4);
      let crc = 0xffffffff;
      for (const byte of data) {
        crc ^= byte;
        for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
      }
      new DataView(chunk.buffer).setUint32(chunk.length - 4, (crc ^ 0xffffffff) >>> 0);
      return new Uint8Array([...marker.subarray(0, 33), ...chunk, ...png.subarray(33)]);
    };
    expect(readPngText(packed("zTXt", Uint8Array.of(0x61, 0xe9))).get("key")).toBe("aé");
    expect(readPngText(packed("iTXt", new TextEncoder().encode("里é"))).get("key")).toBe("里é");
    expect(readTextChunks(packed("iTXt", new TextEncoder().encode("里é"))).size).toBe(0);
    expect(() => readPngText(packed("zTXt", new Uint8Array(17 * 2 ** 20)))).toThrow(ImageFormatError);
  });
  it("refuses keys and texts that PNG cannot hold", async () => {
    for (const key of ["", " x", "x ", "a  b", "里", "x\n", "x".repeat(80)]) {
      await expect(encodePng(picture, { [key]: "x" })).rejects.toThrow(ArgumentError);
    }
    await expect(encodePng(picture, { x: "a\0b" })).rejects.toThrow(/zero character/);
    await expect(encodePng({ ...picture, width: 6 })).rejects.toThrow(ArgumentError);
  });
  it("finds damage: every cut, every changed byte of a text", async () => {
    const png = await encodePng(picture, { prompt: "a red circle" });
    for (let n = 0; n < png.length; n++) expect(() => readPngText(png.subarray(0, n))).toThrow(ImageFormatError);
    for (let i = 37; i < 33 + 12 + "prompt\0a red circle".length; i++) {
      const broken = png.slice();
      broken[i]! ^= 0x20;
      // A changed type makes another chunk of it, which is not read.
      if (i < 41) expect(readPngText(broken).size).toBe(0);
      else expect(() => readPngText(broken)).toThrow(ImageFormatError);
    }
    expect(() => readPngText(new TextEncoder().encode("no png"))).toThrow(/not a PNG/);
  });
});
