/** Tensors to a file of a checkpoint and back, on a device whose memory is the host's. The same on a GPU is the trainer's resume test. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArgumentError, Device, Tensor, empty, tensor } from "../../engine/index.ts";
import type { DType, Storage } from "../../engine/index.ts";
import { fileSet } from "../../model/io/bytes.ts";
import type { FileSource } from "../../model/io/bytes.ts";
import { encodeSafetensors } from "../../model/io/safetensors.ts";
import { loadTensors, loadTensorsInto, saveTensors } from "../../train/optimizer_file.ts";
import { memorySink } from "../checkpoint/tiny.ts";
import { randomFrom } from "../random.ts";

const SEED = Number(process.env["JANUS_TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const FILE = "optimizer.safetensors";
let device: Device;
const memory = new WeakMap<Storage, Uint8Array>();
const transfers: number[] = [];

beforeAll(async () => {
  device = await Device.create({ backend: "null" });
  const bytesOf = (storage: Storage): Uint8Array => {
    if (!memory.has(storage)) memory.set(storage, new Uint8Array(storage.bytes).fill(0xff));
    return memory.get(storage)!;
  };
  device.write = ({ storage, offset }, bytes) => {
    storage.markWritten();
    transfers.push(bytes.length);
    bytesOf(storage).set(bytes, offset);
  };
  device.read = async ({ storage, offset, size }) => {
    transfers.push(size);
    return bytesOf(storage).slice(offset, offset + Math.ceil(size / 4) * 4);
  };
});
afterAll(() => device.destroy());

/** Odd sizes, every dtype, a scalar and an empty one. */
function someTensors(): Record<string, Tensor> {
  const random = randomFrom(SEED);
  const shapes: [string, DType, number[]][] = [
    ["state", "f32", [8]], ["w.m", "f32", [33, 7]], ["w.v", "f32", [33, 7]], ["b.master", "f32", [1]], ["h", "f16", [3, 5]],
    ["g", "bf16", [257]], ["codes", "i32", [70]], ["count", "u32", []], ["mask", "u8", [13]], ["none", "f32", [0, 4]],
  ]; // prettier-ignore
  return Object.fromEntries(
    shapes.map(([name, dtype, shape]) => {
      const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => Math.floor(random() * 256));
      return [name, tensor(values, { shape, dtype, device })];
    }),
  );
}

async function saved(tensors: Readonly<Record<string, Tensor>>, chunkBytes?: number): Promise<FileSource> {
  const sink = memorySink();
  await saveTensors(sink, FILE, tensors, chunkBytes ? { chunkBytes } : {});
  return fileSet("step", sink.files);
}
const wholeOf = async (source: FileSource): Promise<Uint8Array> => {
  const file = await source.open(FILE);
  return file.read(0, file.size);
};

describe(`tensors in a file (seed ${SEED})`, () => {
  it.each([8, 64, 16 * 2 ** 20])(
    "come back as they were, new and in place, in chunks of %d bytes",
    async (chunkBytes) => {
      const tensors = someTensors();
      transfers.length = 0;
      const source = await saved(tensors, chunkBytes);
      const loaded = await loadTensors(source, FILE, { device, chunkBytes });
      expect(Math.max(...transfers)).toBeLessThanOrEqual(chunkBytes);
      expect(Object.keys(loaded).sort()).toEqual(Object.keys(tensors).sort());
      for (const [name, { dtype, shape }] of Object.entries(tensors)) {
        expect(loaded[name]).toMatchObject({ dtype, shape });
        expect(await loaded[name]!.readBytes(), name).toEqual(await tensors[name]!.readBytes());
      }
      const again = Object.fromEntries(
        Object.entries(tensors).map(([name, { dtype, shape }]) => [name, empty(shape, { dtype, device })]),
      );
      await loadTensorsInto(source, FILE, again, { chunkBytes });
      expect(await wholeOf(await saved(again))).toEqual(await wholeOf(source));
    },
  );

  it("are in several files if one would be too large, and come back from them", async () => {
    const tensors = someTensors();
    const sink = memorySink();
    await saveTensors(sink, FILE, tensors, { fileBytes: 1000 });
    expect([...sink.files.keys()]).toEqual([1, 2, 3].map((i) => `optimizer-0000${i}-of-00003.safetensors`));
    const again = Object.fromEntries(
      Object.entries(tensors).map(([name, { dtype, shape }]) => [name, empty(shape, { dtype, device })]),
    );
    await loadTensorsInto(fileSet("step", sink.files), FILE, again);
    expect(await wholeOf(await saved(again))).toEqual(await wholeOf(await saved(tensors)));
    sink.files.delete("optimizer-00002-of-00003.safetensors");
    await expect(loadTensorsInto(fileSet("step", sink.files), FILE, again)).rejects.toThrow(/optimizer-00002-of-00003/);
  });

  it("the same tensors in another order give the same file", async () => {
    const tensors = someTensors();
    const reversed = Object.fromEntries(Object.entries(tensors).reverse());
    expect(await wholeOf(await saved(reversed))).toEqual(await wholeOf(await saved(tensors)));
  });

  const wrong: [string, (tensors: Record<string, Tensor>) => void, RegExp][] = [
    ["one is missing in the file", (t) => (t["new"] = empty([2], { device })), /"new", f32 \[2\], is missing/],
    ["one is not wanted", (t) => delete t["w.m"], /"w.m" is not wanted/],
    [
      "another shape",
      (t) => (t["w.m"] = empty([7, 33], { device })),
      /"w.m" is f32 \[33, 7\], it must be f32 \[7, 33\]/,
    ],
    [
      "another dtype",
      (t) => (t["h"] = empty([3, 5], { dtype: "bf16", device })),
      /"h" is f16 \[3, 5\], it must be bf16/,
    ],
  ];
  it.each(wrong)("%s: refused before anything is written", async (_, change, message) => {
    const source = await saved(someTensors());
    const into = someTensors();
    change(into);
    transfers.length = 0;
    await expect(loadTensorsInto(source, FILE, into)).rejects.toThrow(message);
    expect(transfers).toEqual([]);
  });

  it("a tensor that changes while it is saved, and one that is not contiguous, are refused", async () => {
    const tensors = someTensors();
    const sink = memorySink();
    const slow = {
      write: (name: string, content: Parameters<typeof sink.write>[1]) =>
        sink.write(name, async (file) => {
          if (content instanceof Uint8Array) return;
          let writes = 0;
          await content({
            write: async (bytes) => {
              await file.write(bytes);
              if (++writes === 2)
                device.write({ storage: tensors["w.v"]!.storage, offset: 0, size: 4 }, new Uint8Array(4));
            },
          });
        }),
    };
    await expect(saveTensors(slow, FILE, tensors)).rejects.toThrow(/"w.v" was changed while it was saved/);
    const { storage } = tensors["w.m"]!;
    const view = new Tensor(storage.retain(), [7, 33], "f32", [1, 7]);
    await expect(saveTensors(memorySink(), FILE, { view })).rejects.toThrow(ArgumentError);
    const source = await saved({ row: tensor([1, 2, 3], { device }) });
    await expect(
      loadTensorsInto(source, FILE, { row: new Tensor(storage.retain(), [3], "f32", [2], 7) }),
    ).rejects.toThrow(/got a view/);
  });

  it("a dtype that no device has, and a file that ends early, are refused, and nothing stays on the device", async () => {
    const bytes = encodeSafetensors([{ name: "x", dtype: "f64", shape: [2], data: new Uint8Array(16) }]);
    const before = device.pool.stats.liveBytes;
    await expect(loadTensors(fileSet("step", new Map([[FILE, bytes]])), FILE, { device })).rejects.toThrow(
      /"x" is f64 \[2\]/,
    );
    const whole = await wholeOf(await saved(someTensors()));
    const live = device.pool.stats.liveBytes;
    const source = fileSet("step", new Map([[FILE, whole]]));
    let reads = 0;
    const failing: FileSource = {
      ...source,
      open: async (name) => {
        const file = await source.open(name);
        return { ...file, read: async (...range) => { if (++reads > 6) throw new ArgumentError("gone"); return file.read(...range); } }; // prettier-ignore
      },
    };
    await expect(loadTensors(failing, FILE, { device })).rejects.toThrow("gone");
    expect(device.pool.stats.liveBytes).toBe(live);
    expect(live).toBeGreaterThanOrEqual(before);
  });
});
