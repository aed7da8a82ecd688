// Small checkpoint files made by hand, right and wrong ones: safetensors, zip, pickle. Shares nothing with the readers.
import type { RandomAccess } from "../../model/io/bytes.ts";
import { randomFrom } from "../random.ts";

export const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);

export function concat(...parts: (Uint8Array | readonly number[])[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const le = (value: number | bigint, bytes: number): Uint8Array => {
  const out = new Uint8Array(8);
  new DataView(out.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true);
  return out.subarray(0, bytes);
};
export const u16 = (value: number): Uint8Array => le(value, 2);
export const u32 = (value: number): Uint8Array => le(value, 4);
export const u64 = (value: number | bigint): Uint8Array => le(value, 8);

/** A safetensors file with this header, right or wrong, and as many bytes of data. */
export function safetensors(header: string | Uint8Array, dataBytes = 0, headerBytes?: number | bigint): Uint8Array {
  const text = typeof header === "string" ? ascii(header) : header;
  const data = Uint8Array.from({ length: dataBytes }, (_, i) => i * 7);
  return concat(u64(headerBytes ?? text.length), text, data);
}

// ---- pickle

/** Opcodes of protocol 2. Each returns the bytes that leave its value on the stack. */
export const P = {
  proto: (version = 2): Uint8Array => Uint8Array.of(0x80, version),
  stop: Uint8Array.of(0x2e),
  mark: Uint8Array.of(0x28),
  none: Uint8Array.of(0x4e),
  true: Uint8Array.of(0x88),
  false: Uint8Array.of(0x89),
  emptyTuple: Uint8Array.of(0x29),
  emptyDict: Uint8Array.of(0x7d),
  setItem: Uint8Array.of(0x73),
  setItems: Uint8Array.of(0x75),
  reduce: Uint8Array.of(0x52),
  build: Uint8Array.of(0x62),
  persid: Uint8Array.of(0x51),
  text: (text: string): Uint8Array => concat([0x58], u32(ascii(text).length), ascii(text)),
  int: (n: number): Uint8Array =>
    n >= 0 && n < 256
      ? Uint8Array.of(0x4b, n)
      : n >= 0 && n < 65536
        ? concat([0x4d], u16(n))
        : n >= -(2 ** 31) && n < 2 ** 31
          ? concat([0x4a], le(n, 4))
          : concat([0x8a, 8], u64(n)),
  global: (module: string, name: string): Uint8Array => ascii(`c${module}\n${name}\n`),
  tuple: (...items: Uint8Array[]): Uint8Array =>
    items.length === 0
      ? P.emptyTuple
      : items.length < 4
        ? concat(...items, [0x84 + items.length])
        : concat(P.mark, ...items, [0x74]),
  put: (index: number): Uint8Array => (index < 256 ? Uint8Array.of(0x71, index) : concat([0x72], u32(index))),
  get: (index: number): Uint8Array => (index < 256 ? Uint8Array.of(0x68, index) : concat([0x6a], u32(index))),
  orderedDict: (): Uint8Array => concat(P.global("collections", "OrderedDict"), P.emptyTuple, P.reduce),
  storage: (key: string, elements: number, type = "BFloat16Storage", device = "cpu"): Uint8Array =>
    concat(P.tuple(P.text("storage"), P.global("torch", type), P.text(key), P.text(device), P.int(elements)), P.persid),
  tensor: (
    storage: Uint8Array,
    shape: readonly number[],
    options: { offset?: number; strides?: readonly number[]; hooks?: Uint8Array } = {},
  ): Uint8Array => {
    const strides = options.strides ?? shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
    const args = [
      storage,
      P.int(options.offset ?? 0),
      P.tuple(...shape.map(P.int)),
      P.tuple(...strides.map(P.int)),
      P.false,
      options.hooks ?? P.orderedDict(),
    ];
    return concat(P.global("torch._utils", "_rebuild_tensor_v2"), P.tuple(...args), P.reduce);
  },
  /** A dictionary, its items set at once. */
  dict: (...items: [string, Uint8Array][]): Uint8Array =>
    concat(P.emptyDict, P.mark, ...items.map(([key, value]) => concat(P.text(key), value)), P.setItems),
  /** A whole pickle. */
  whole: (value: Uint8Array): Uint8Array => concat(P.proto(), value, P.stop),
};

export interface TorchTensor {
  name: string;
  shape: number[];
  type?: "BFloat16Storage" | "HalfStorage" | "FloatStorage";
}

// ---- zip

export interface ZipItem {
  name: string | Uint8Array;
  data: Uint8Array;
  method?: number;
  flags?: number;
  /** Over what is right, in the central directory. */
  size?: number;
  stored?: number;
  offset?: number;
  disk?: number;
  extra?: Uint8Array;
  /** In the local header. */
  localName?: string;
  localExtra?: Uint8Array;
  localSignature?: number;
  localSize?: number;
  localMethod?: number;
  centralSignature?: number;
  /** Zeros after the data that are not kept in memory; see `sparseZip`. */
  hole?: number;
}

export interface ZipOptions {
  zip64?: boolean;
  comment?: Uint8Array;
  count?: number;
  directoryBytes?: number;
  directoryOffset?: number;
  disk?: number;
  locatorOffset?: number;
  record64Signature?: number;
  between?: Uint8Array;
}

/** A zip archive of stored entries, with anything in it made wrong on demand. */
export function zip(items: readonly ZipItem[], options: ZipOptions = {}): Uint8Array {
  return concat(...zipParts(items, options).map(({ bytes }) => bytes));
}

/** A zip archive of any size, of which only what is not a hole is in memory. */
export function sparseZip(items: readonly ZipItem[]): RandomAccess {
  const parts = zipParts(items, { zip64: true });
  const last = parts.at(-1)!;
  return {
    name: "sparse.bin",
    size: last.at + last.bytes.length,
    read: async (offset, length) => {
      const out = new Uint8Array(length);
      for (const { at, bytes } of parts) {
        const [from, to] = [Math.max(at, offset), Math.min(at + bytes.length, offset + length)];
        if (from < to) out.set(bytes.subarray(from - at, to - at), from - offset);
      }
      return out;
    },
  };
}

function zipParts(items: readonly ZipItem[], options: ZipOptions): { at: number; bytes: Uint8Array }[] {
  const bodies: { at: number; bytes: Uint8Array }[] = [];
  const central: Uint8Array[] = [];
  let at = 0;
  for (const item of items) {
    const name = typeof item.name === "string" ? ascii(item.name) : item.name;
    const localName = item.localName === undefined ? name : ascii(item.localName);
    const localExtra = item.localExtra ?? new Uint8Array(0);
    const [flags, size] = [item.flags ?? 0x0808, item.size ?? item.data.length + (item.hole ?? 0)];
    const known = flags & 8 ? 0 : item.data.length;
    const local = concat(
      u32(item.localSignature ?? 0x04034b50), u16(0), u16(flags), u16(item.localMethod ?? item.method ?? 0), u32(0), u32(0),
      u32(item.localSize ?? known), u32(item.localSize ?? known), u16(localName.length), u16(localExtra.length), localName, localExtra, item.data,
    ); // prettier-ignore
    const large = item.hole !== undefined ? concat(u16(1), u16(24), u64(size), u64(size), u64(at)) : undefined;
    const small = (value: number): number => (large ? 0xffffffff : value);
    const extra = item.extra ?? large ?? new Uint8Array(0);
    central.push(
      concat(
        u32(item.centralSignature ?? 0x02014b50), u16(0), u16(0), u16(flags), u16(item.method ?? 0), u32(0), u32(0), u32(small(item.stored ?? size)), u32(small(size)),
        u16(name.length), u16(extra.length), u16(0), u16(item.disk ?? 0), u16(0), u32(0), u32(small(item.offset ?? at)), name, extra,
      ), // prettier-ignore
    );
    bodies.push({ at, bytes: local });
    at += local.length + (item.hole ?? 0);
  }
  const directory = concat(...central);
  const [count, bytes, offset] = [
    options.count ?? items.length,
    options.directoryBytes ?? directory.length,
    options.directoryOffset ?? at,
  ];
  const disk = options.disk ?? 0;
  const record64 = concat(
    u32(options.record64Signature ?? 0x06064b50),
    u64(44),
    u16(45),
    u16(45),
    u32(0),
    u32(0),
    u64(count),
    u64(count),
    u64(bytes),
    u64(offset),
  );
  const locator = concat(u32(0x07064b50), u32(0), u64(options.locatorOffset ?? at + directory.length), u32(1));
  const comment = options.comment ?? new Uint8Array(0);
  const end = options.zip64
    ? concat(
        u32(0x06054b50),
        u16(disk),
        u16(disk),
        u16(0xffff),
        u16(0xffff),
        u32(0xffffffff),
        u32(0xffffffff),
        u16(comment.length),
        comment,
      )
    : concat(
        u32(0x06054b50),
        u16(disk),
        u16(disk),
        u16(count),
        u16(count),
        u32(bytes),
        u32(offset),
        u16(comment.length),
        comment,
      );
  const tail = concat(directory, options.between ?? [], ...(options.zip64 ? [record64, locator] : []), end);
  return [...bodies, { at, bytes: tail }];
}

/** Entries of a file of torch.save around this pickle. */
export function torchItems(
  pickle: Uint8Array,
  storages: Readonly<Record<string, Uint8Array>>,
  root = "archive",
): ZipItem[] {
  return [
    { name: `${root}/data.pkl`, data: pickle },
    { name: `${root}/byteorder`, data: ascii("little") },
    ...Object.entries(storages).map(([key, data]) => ({ name: `${root}/data/${key}`, data })),
    { name: `${root}/version`, data: ascii("3\n") },
  ];
}

/** A file of torch.save with these tensors, each in a storage of its own, filled with its index. */
export function torchFile(tensors: readonly TorchTensor[], options: ZipOptions = {}): Uint8Array {
  const storages: Record<string, Uint8Array> = {};
  const items = tensors.map(({ name, shape, type = "BFloat16Storage" }, i): [string, Uint8Array] => {
    const elements = shape.reduce((a, b) => a * b, 1);
    storages[i] = new Uint8Array(elements * (type === "FloatStorage" ? 4 : 2)).fill(i);
    return [name, P.tensor(P.storage(String(i), elements, type), shape)];
  });
  return zip(torchItems(P.whole(P.dict(...items)), storages), options);
}

/** Deterministic whole numbers below `n`. */
export function random(seed: number): (n: number) => number {
  const next = randomFrom(seed);
  return (n) => Math.floor(next() * n);
}
