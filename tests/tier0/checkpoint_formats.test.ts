/** The readers and the writer of checkpoint files on small right files; the wrong ones are in checkpoint_hostile.test.ts. */
import { describe, expect, it } from "vitest";
import { bytesFile } from "../../model/io/bytes.ts";
import { castFloats } from "../../model/io/cast.ts";
import { SafetensorsError, quote, someOf } from "../../model/io/errors.ts";
import { parseJson } from "../../model/io/json.ts";
import { encodeSafetensors, layoutSafetensors, readSafetensors, writeSafetensors } from "../../model/io/safetensors.ts";
import { readTorchZip, readZipDirectory, zipDataOffset } from "../../model/io/torch_zip.ts";
import { bf16Bits, bf16Value, f16Bits, f16Value } from "../../engine/dtype.ts";
import {
  P,
  ascii,
  concat,
  safetensors,
  sparseZip,
  torchFile,
  torchItems,
  u16,
  u32,
  u64,
  zip,
} from "../checkpoint/files.ts";

describe("JSON", () => {
  const asMaps = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(asMaps);
    return value !== null && typeof value === "object"
      ? new Map(Object.entries(value).map(([k, v]) => [k, asMaps(v)]))
      : value;
  };
  const texts = [
    "null", "true", " false ", "0", "-0", "1.5e-3", "-12E+2", "9007199254740991", "-9007199254740991", '""', '"a\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\u0041\\u00e9\\u20ac\\ud83d\\ude00"',
    '"é€😀"', "[]", "[ ]", "[1,2,[3]]", "{}", '{"a":1,"b":{"a":[]},"":null}', '\t{\n"x" : [ true , "y" ] }\r\n', '{"__proto__":1,"constructor":2}', `${"[".repeat(64)}${"]".repeat(64)}`, "1e-400",
  ]; // prettier-ignore
  it.each(texts)("reads %s as JSON.parse does", (text) => {
    expect(parseJson(ascii(text), "t")).toEqual(asMaps(JSON.parse(text)));
  });
  it("keeps a key named __proto__ a key like any other", () => {
    const object = parseJson(ascii('{"__proto__":{"polluted":1}}'), "t") as Map<string, unknown>;
    expect([...object.keys()]).toEqual(["__proto__"]);
    expect("polluted" in object).toBe(false);
  });
});

describe("safetensors", () => {
  const tensors = [
    { name: "b", dtype: "bf16", shape: [2, 3], data: Uint8Array.from({ length: 12 }, (_, i) => i) },
    { name: "scalar", dtype: "f32", shape: [], data: Uint8Array.of(1, 2, 3, 4) },
    { name: "empty", dtype: "f16", shape: [0, 7], data: new Uint8Array(0) },
    { name: 'quote "é😀', dtype: "i64", shape: [1], data: new Uint8Array(8) },
    { name: "flag", dtype: "bool", shape: [3], data: Uint8Array.of(1, 0, 1) },
  ] as const;

  it("reads what it writes: names, dtypes, shapes, bytes, metadata", async () => {
    const bytes = encodeSafetensors(tensors, { format: "pt", note: "x" });
    const file = bytesFile("a.safetensors", bytes);
    const read = await readSafetensors(file, "short");
    expect([...read.metadata]).toEqual([
      ["format", "pt"],
      ["note", "x"],
    ]);
    expect([...read.tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape }))).toEqual(
      tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
    );
    for (const { name, data } of tensors) {
      const found = read.tensors.get(name)!;
      expect(found.file).toBe("short");
      expect(await file.read(found.offset, found.bytes)).toEqual(data);
    }
  });
  it("aligns the data to 8 bytes and pads the header with spaces", () => {
    for (let n = 1; n < 12; n++) {
      const { header, fileBytes } = layoutSafetensors([{ name: "x".repeat(n), dtype: "u8", shape: [1] }], {});
      expect(header.length % 8).toBe(0);
      expect(fileBytes).toBe(header.length + 1);
      expect(new TextDecoder().decode(header.subarray(8)).trimEnd()).toMatch(/^\{.*\}$/);
    }
  });
  it("takes tensors in any order of the header, padding, and no tensors at all", async () => {
    const header =
      '{"b":{"data_offsets":[2,4],"shape":[1],"dtype":"BF16"},"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}   ';
    const read = await readSafetensors(bytesFile("f", safetensors(header, 4)));
    expect(read.tensors.get("a")!.offset).toBe(8 + header.length);
    expect(read.tensors.get("b")!.offset).toBe(8 + header.length + 2);
    expect((await readSafetensors(bytesFile("f", safetensors("{}")))).tensors.size).toBe(0);
  });
  it("streams the same bytes in chunks, and refuses too few and too many", async () => {
    const parts: Uint8Array[] = [];
    const sink = { write: async (bytes: Uint8Array) => void parts.push(bytes.slice()) };
    const inChunks = tensors.map((tensor) => ({
      ...tensor,
      chunks: () => [tensor.data.subarray(0, 3), tensor.data.subarray(3)],
    }));
    await writeSafetensors(sink, inChunks);
    expect(concat(...parts)).toEqual(encodeSafetensors(tensors));
    for (const bytes of [11, 13]) {
      const wrong = [{ ...tensors[0], chunks: () => [new Uint8Array(bytes)] }];
      await expect(writeSafetensors(sink, wrong)).rejects.toThrow(SafetensorsError);
      await expect(writeSafetensors(sink, wrong)).rejects.toThrow(`"b" has 12 bytes, ${bytes} were given`);
    }
  });
  it("does not write what it would not read", () => {
    const spec = (name: string) => ({ name, dtype: "u8" as const, shape: [0] });
    for (const names of [["a", "a"], ["__metadata__"], ["__proto__"], [""]])
      expect(() => layoutSafetensors(names.map(spec)), names.join()).toThrow(SafetensorsError);
  });
});

describe("torch.save", () => {
  const pair = [
    { name: "a.weight", shape: [2, 3] },
    { name: "b", shape: [], type: "FloatStorage" as const },
    { name: "c", shape: [0, 4], type: "HalfStorage" as const },
  ];
  it.each([{ zip64: false }, { zip64: true }, { comment: ascii("PK\x05\x06 is not the end") }])(
    "reads a file %o",
    async (options) => {
      const file = bytesFile("m.bin", torchFile(pair, options));
      const tensors = await readTorchZip(file, "m.bin");
      expect([...tensors.values()].map(({ name, dtype, shape, bytes }) => ({ name, dtype, shape, bytes }))).toEqual([
        { name: "a.weight", dtype: "bf16", shape: [2, 3], bytes: 12 },
        { name: "b", dtype: "f32", shape: [], bytes: 4 },
        { name: "c", dtype: "f16", shape: [0, 4], bytes: 0 },
      ]);
      expect([...(await file.read(tensors.get("b")!.offset, 4))]).toEqual([1, 1, 1, 1]);
    },
  );
  it("finds data behind the padding of a local header, and sizes in the ZIP64 field", async () => {
    const data = Uint8Array.of(1, 2, 3, 4);
    const padding = concat(ascii("FB"), u16(5), ascii("ZZZZZ"));
    const large = concat(ascii("xx"), u16(1), [0], u16(1), u16(24), u64(4), u64(4), u64(0));
    const items = [
      {
        name: "r/x",
        data,
        localExtra: padding,
        extra: large,
        size: 0xffffffff,
        stored: 0xffffffff,
        offset: 0xffffffff,
      },
    ];
    const file = bytesFile("z", zip(items));
    const entry = (await readZipDirectory(file)).get("r/x")!;
    expect(entry.bytes).toBe(4);
    expect(await file.read(await zipDataOffset(file, entry), 4)).toEqual(data);
  });
  it("reads a state dict as PyTorch writes it: OrderedDict, memo, shared storages, views, _metadata", async () => {
    const storage = P.storage("0", 12);
    const pickle = P.whole(
      concat(
        P.orderedDict(), P.put(0), P.mark,
        P.text("whole"), P.tensor(concat(storage, P.put(1)), [3, 4]), P.put(2),
        P.text("row"), P.tensor(P.get(1), [1, 4], { offset: 8, strides: [99, 1] }),
        P.text("same"), P.get(2),
        P.setItems, P.dict(["_metadata", P.dict(["", P.dict(["version", P.int(1)])])]), P.build,
      ), // prettier-ignore
    );
    const data = Uint8Array.from({ length: 24 }, (_, i) => i);
    const tensors = await readTorchZip(bytesFile("m", zip(torchItems(pickle, { 0: data }, "any name"))));
    const start = tensors.get("whole")!.offset;
    expect(tensors.get("row")).toMatchObject({ offset: start + 16, bytes: 8, shape: [1, 4] });
    expect(tensors.get("same")).toMatchObject({ offset: start, bytes: 24, name: "same" });
  });
  it("reads archives of more than 4 GiB, with storages beyond it and larger than it", async () => {
    const elements = 2.5e9;
    const pickle = P.whole(
      P.dict(
        ["large", P.tensor(P.storage("0", elements), [50_000, 50_000])],
        ["last", P.tensor(P.storage("1", 2), [2])],
      ),
    );
    const [description, ...rest] = torchItems(pickle, { 0: new Uint8Array(0), 1: Uint8Array.of(5, 6, 7, 8) });
    const file = sparseZip([
      description!,
      ...rest.map((item) => ({ ...item, hole: item.name === "archive/data/0" ? 2 * elements : 0 })),
    ]);
    expect(file.size).toBeGreaterThan(5e9);
    const tensors = await readTorchZip(file);
    expect(tensors.get("large")).toMatchObject({ shape: [50_000, 50_000], bytes: 5e9 });
    const last = tensors.get("last")!;
    expect(last.offset).toBeGreaterThan(5e9);
    expect([...(await file.read(last.offset, last.bytes))]).toEqual([5, 6, 7, 8]);
  });
  it("takes integers of every width", async () => {
    const long = concat([0x8a, 1], [4]);
    const wide = concat([0x8a, 3], [4, 0, 0]);
    const storage = concat(
      P.tuple(P.text("storage"), P.global("torch", "FloatStorage"), P.text("0"), P.text("cuda:0"), wide),
      P.persid,
    );
    const args = P.tuple(storage, concat([0x4a], u32(0)), P.tuple(long), P.tuple(P.int(1)), P.true, P.orderedDict());
    const tensor = concat(P.global("torch._utils", "_rebuild_tensor_v2"), args, P.reduce);
    const other = P.tensor(P.storage("1", 300), [300]);
    const pickle = P.whole(concat(P.emptyDict, P.text("x"), tensor, P.setItem, P.text("y"), other, P.setItem));
    const tensors = await readTorchZip(
      bytesFile("m", zip(torchItems(pickle, { 0: new Uint8Array(16), 1: new Uint8Array(600) }))),
    );
    expect([...tensors.keys()]).toEqual(["x", "y"]);
  });
});

describe("castFloats", () => {
  const f32 = Float32Array.of(0, -0, 1, -2.5, 3.14159265, 65504, 6e-8, 1e-40, Infinity, -Infinity, NaN);
  const bits = (values: ArrayLike<number>, of: (v: number) => number): Uint8Array =>
    new Uint8Array(Uint16Array.from(values, of).buffer);
  const f32Bytes = new Uint8Array(f32.buffer);
  it("agrees with the engine's conversions", () => {
    expect(castFloats(f32Bytes, "f32", "bf16", "t")).toEqual(bits(f32, bf16Bits));
    expect(castFloats(f32Bytes, "f32", "f16", "t")).toEqual(bits(f32, f16Bits));
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const bytes = new Uint8Array(all.buffer);
    const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
    const f32Of = (values: Uint16Array, of: (bits: number) => number): Uint8Array =>
      new Uint8Array(Float32Array.from(values, of).buffer);
    const isNaN16 = (p: number): boolean => (p & 0x7fff) > 0x7c00; // NaNs keep no pattern of their own on the way through a number
    const numbers = all.filter((p) => !isNaN16(p));
    const asF32 = (patterns: Uint16Array, from: "f16" | "bf16"): Uint8Array =>
      castFloats(new Uint8Array(patterns.buffer), from, "f32", "t");
    expect(
      same(castFloats(bytes, "bf16", "f32", "t"), new Uint8Array(Uint32Array.from(all, (p) => p << 16).buffer)),
    ).toBe(true);
    expect(same(asF32(numbers, "f16"), f32Of(numbers, f16Value))).toBe(true);
    expect(
      same(
        castFloats(new Uint8Array(numbers.buffer), "f16", "bf16", "t"),
        bits(Float32Array.from(numbers, f16Value), bf16Bits),
      ),
    ).toBe(true);
    const small = all.filter((p) => Math.abs(bf16Value(p)) < 65504);
    expect(
      same(
        castFloats(new Uint8Array(small.buffer), "bf16", "f16", "t"),
        bits(Float32Array.from(small, bf16Value), f16Bits),
      ),
    ).toBe(true);
  });
  it("refuses to make a number infinite", () => {
    const large = new Uint8Array(Float32Array.of(1, 70_000).buffer);
    expect(() => castFloats(large, "f32", "f16", "w")).toThrow(/w holds numbers beyond the range of f16/);
    expect(() => castFloats(castFloats(large, "f32", "bf16", "w"), "bf16", "f16", "w")).toThrow(/beyond the range/);
    expect(() => castFloats(new Uint8Array(Float32Array.of(3.38e38).buffer), "f32", "bf16", "w")).not.toThrow();
    expect(() => castFloats(new Uint8Array(Uint32Array.of(0x7f7fffff).buffer), "f32", "bf16", "w")).toThrow(
      /beyond the range/,
    );
  });
  it("takes bytes that are not aligned", () => {
    const shifted = concat([9], f32Bytes).subarray(1);
    expect(castFloats(shifted, "f32", "bf16", "t")).toEqual(bits(f32, bf16Bits));
  });
});

it("shows strings of files without letting them speak to the terminal", () => {
  expect(quote("a\u001b[31m\n\u202e\u009b")).toBe('"a\\u001b[31m\\n\\u202e\\u009b"');
  expect(quote("x".repeat(500)).length).toBeLessThan(125);
  expect(someOf(["a", "b", "c"], 2)).toBe('"a", "b" and 1 more');
});
