/** The data of the demo as files, in the formats that the trainer reads. */
import { mkdir, open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import type { RgbImage } from "../../model/image/image.ts";
import { trainingSample } from "./dataset.ts";
import type { SampleOptions } from "./dataset.ts";
import { SIDE, render } from "./scene.ts";

export interface DatasetOptions extends SampleOptions {
  readonly seed?: number;
  /** Images to make (default: 10,000). Each has a description, eight of eleven a prompt of one of the kinds. */
  readonly pictures?: number;
  /** Side of the images, pixels (default: 64). */
  readonly side?: number;
  readonly onProgress?: (pictures: number) => void;
}

export interface DatasetCounts {
  readonly pictures: number;
  readonly understanding: number;
  readonly generation: number;
  readonly text: number;
}

/**
 * Writes `und.jsonl` (OpenAI's `messages`: a conversation of all questions to an image, which is an `image_url` part), `gen.jsonl` (`{prompt, image}`, a line for each prompt), `text.jsonl` (`{text}`) and
 * the images, `images/0000000.png` and on, to a folder that is made if need be. Paths of images are relative to the folder.
 */
export async function writeDataset(folder: string, options: DatasetOptions = {}): Promise<DatasetCounts> {
  const { seed = 0, pictures = 10_000, side = SIDE, onProgress } = options;
  await mkdir(join(folder, "images"), { recursive: true });
  const counts = { pictures, understanding: 0, generation: 0, text: 0 };
  await using understanding = await open(join(folder, "und.jsonl"), "w");
  await using generation = await open(join(folder, "gen.jsonl"), "w");
  await using text = await open(join(folder, "text.jsonl"), "w");
  const line = (value: unknown): string => `${JSON.stringify(value)}\n`;
  const AT_ONCE = 64; // images in memory
  for (let from = 0; from < pictures; from += AT_ONCE) {
    const lines = { und: "", gen: "", text: "" };
    const writes: Promise<void>[] = [];
    for (let index = from; index < Math.min(pictures, from + AT_ONCE); index++) {
      const sample = trainingSample(seed, index, options);
      const image = `images/${String(index).padStart(7, "0")}.png`;
      writes.push(writeFile(join(folder, image), png(render(sample.scene, side))));
      const [first, ...rest] = sample.questions;
      if (first) {
        const content = [
          { type: "image_url", image_url: { url: image } },
          { type: "text", text: first.question },
        ];
        const turns = (question: unknown, answer: string): object[] => [
          { role: "user", content: question },
          { role: "assistant", content: answer },
        ];
        const others = rest.flatMap(({ question, answer }) => turns(question, answer));
        lines.und += line({ messages: [...turns(content, first.answer), ...others] });
        counts.understanding++;
      }
      for (const prompt of [...(sample.prompt ? [sample.prompt.text] : []), sample.description]) {
        lines.gen += line({ prompt, image });
        counts.generation++;
      }
      lines.text += line({ text: sample.text });
      counts.text++;
    }
    await Promise.all([...writes, understanding.write(lines.und), generation.write(lines.gen), text.write(lines.text)]);
    onProgress?.(Math.min(pictures, from + AT_ONCE));
  }
  return counts;
}

/** A PNG file without filters and with light compression: flat images shrink to a hundredth all the same, ten times sooner than by sharp. */
export function png({ width, height, data }: RgbImage): Uint8Array {
  const row = width * 3;
  const rows = new Uint8Array((row + 1) * height); // each row begins with its filter, 0
  for (let y = 0; y < height; y++) rows.set(data.subarray(y * row, (y + 1) * row), y * (row + 1) + 1);
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8); // 8 bits, RGB
  const signature = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
  return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", deflateSync(rows, { level: 3 })), chunk("IEND", Buffer.alloc(0))]); // prettier-ignore
}

function chunk(name: string, content: Uint8Array): Buffer {
  const out = Buffer.alloc(content.length + 12);
  out.writeUInt32BE(content.length, 0);
  out.write(name, 4, "latin1");
  out.set(content, 8);
  out.writeUInt32BE(crc32(out.subarray(4, content.length + 8)), content.length + 8);
  return out;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

// zlib.crc32 came with Node 22.2.
function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
