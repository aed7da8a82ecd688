/**
 * The subset of pickle (protocol 2) in which `torch.save` describes a dictionary of tensors. A pickle is a program for a stack machine;
 * this one knows just the opcodes that build tuples, dictionaries, numbers, strings and tensors. The few names a pickle may ask for
 * stand for fixed values here: nothing is looked up, imported, called or executed, and everything else is refused by its name.
 */
import { PickleError, UnsafePickleError, quote } from "./errors.ts";
import { MAX_RANK, MAX_TENSORS, elementCount, nameProblem } from "./stored.ts";
import type { StoredDType } from "./stored.ts";

/** Bytes; that of the 7B model has 150,000. */
export const MAX_PICKLE = 16 * 2 ** 20;
/** Values on the stack; a pickler adds the items of a dictionary a thousand at a time. */
const MAX_STACK = 65_536;
const MAX_TEXT = 4096;
/** Bytes of memory on top of three times the pickle; a small one costs more than that a byte. */
const ALLOWANCE = 8 * 2 ** 20;
/** Bytes that V8 takes for an object of each kind, about; of what it holds besides: 8 a value in a tuple, 48 an entry. */
const COST = { string: 24, tuple: 48, dict: 40, entries: 256, entry: 48, storage: 56, tensor: 64, memo: 12 };

export interface PickledStorage {
  readonly kind: "storage";
  readonly key: string;
  readonly dtype: StoredDType;
  readonly elements: number;
}

export interface PickledTensor {
  readonly kind: "tensor";
  readonly storage: PickledStorage;
  /** Offset in the storage, in elements. */
  readonly first: number;
  readonly shape: readonly number[];
  readonly elements: number;
}

interface Name {
  readonly kind: "name";
  readonly text: string;
  readonly dtype?: StoredDType;
}

interface Dict {
  readonly kind: "dict";
  /** Null while it is empty: there is one of these for each tensor. */
  entries: Map<string, Value> | null;
}

type Value = null | boolean | number | string | readonly Value[] | Name | Dict | PickledStorage | PickledTensor;

const ORDERED_DICT = "collections.OrderedDict";
const REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2";
const NAMES: ReadonlyMap<string, Name> = new Map(
  (
    [
      [ORDERED_DICT],
      [REBUILD_TENSOR],
      ["torch.BFloat16Storage", "bf16"],
      ["torch.HalfStorage", "f16"],
      ["torch.FloatStorage", "f32"],
    ] as [string, StoredDType?][]
  ).map(([text, dtype]) => [text, { kind: "name", text, dtype }]),
);

/** Opcodes of all protocols, to name those that are refused. */
const OPCODES: ReadonlyMap<number, string> = new Map(
  (
    "28 MARK,2e STOP,30 POP,31 POP_MARK,32 DUP,46 FLOAT,49 INT,4a BININT,4b BININT1,4c LONG,4d BININT2,4e NONE,50 PERSID,51 BINPERSID," +
    "52 REDUCE,53 STRING,54 BINSTRING,55 SHORT_BINSTRING,56 UNICODE,58 BINUNICODE,61 APPEND,62 BUILD,63 GLOBAL,64 DICT,65 APPENDS,67 GET," +
    "68 BINGET,69 INST,6a LONG_BINGET,6c LIST,6f OBJ,70 PUT,71 BINPUT,72 LONG_BINPUT,73 SETITEM,74 TUPLE,75 SETITEMS,28 MARK,29 EMPTY_TUPLE," +
    "47 BINFLOAT,5d EMPTY_LIST,7d EMPTY_DICT,80 PROTO,81 NEWOBJ,82 EXT1,83 EXT2,84 EXT4,85 TUPLE1,86 TUPLE2,87 TUPLE3,88 NEWTRUE,89 NEWFALSE," +
    "8a LONG1,8b LONG4,42 BINBYTES,43 SHORT_BINBYTES,8c SHORT_BINUNICODE,8d BINUNICODE8,8e BINBYTES8,8f EMPTY_SET,90 ADDITEMS,91 FROZENSET," +
    "92 NEWOBJ_EX,93 STACK_GLOBAL,94 MEMOIZE,95 FRAME,96 BYTEARRAY8,97 NEXT_BUFFER,98 READONLY_BUFFER"
  )
    .split(",")
    .map((entry) => [parseInt(entry.slice(0, 2), 16), entry.slice(3)]),
);

const isKind = <K extends "name" | "dict" | "storage" | "tensor">(
  value: Value | undefined,
  kind: K,
): value is Extract<Value, { kind: K }> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && (value as { kind: string }).kind === kind;
const isTuple = (value: Value | undefined): value is readonly Value[] => Array.isArray(value);
const EMPTY: readonly Value[] = [];
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

class Machine {
  private readonly bytes: Uint8Array;
  private readonly data: DataView;
  private readonly name: string;
  private at = 0;
  private readonly stack: Value[] = [];
  private readonly marks: number[] = [];
  private readonly memo: Value[] = [];
  /** Estimate of the memory that the values take, all of them counted as kept, against three times the size of the pickle. */
  private cost = 0;
  private readonly budget: number;

  constructor(bytes: Uint8Array, name: string) {
    this.bytes = bytes;
    this.data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.name = name;
    this.budget = 3 * bytes.length + ALLOWANCE;
  }

  run(): Value {
    for (;;) {
      const opcode = this.u8();
      if (opcode === 0x2e) break;
      this.step(opcode);
    }
    if (this.at !== this.bytes.length) this.fail(`${this.bytes.length - this.at} bytes after its end`);
    if (this.stack.length !== 1 || this.marks.length)
      this.fail(`it ends with ${this.stack.length} values instead of one`);
    return this.stack[0]!;
  }

  fail(message: string): never {
    throw new PickleError(`${this.name}: ${message} (byte ${this.at}); not a pickle of torch.save, or damaged`);
  }

  private step(opcode: number): void {
    switch (opcode) {
      case 0x80: // PROTO
        return this.protocol();
      case 0x28: // MARK
        if (this.marks.length >= MAX_STACK) this.fail(`more than ${MAX_STACK} marks`);
        this.marks.push(this.stack.length);
        return;
      case 0x4e: // NONE
        return this.push(null);
      case 0x88: // NEWTRUE
        return this.push(true);
      case 0x89: // NEWFALSE
        return this.push(false);
      case 0x4b: // BININT1
        return this.push(this.u8());
      case 0x4d: // BININT2
        this.need(2);
        return this.push(this.data.getUint16(this.at - 2, true));
      case 0x4a: // BININT
        this.need(4);
        return this.push(this.data.getInt32(this.at - 4, true));
      case 0x8a: // LONG1
        return this.push(this.long());
      case 0x58: // BINUNICODE
        return this.push(this.text(this.u32()));
      case 0x29: // EMPTY_TUPLE
        return this.push(EMPTY);
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        return this.tuple(opcode - 0x84);
      case 0x74: // TUPLE
        return this.tuple(this.stack.length - this.popMark());
      case 0x7d: // EMPTY_DICT
        return this.push(this.dict());
      case 0x63: // GLOBAL
        return this.push(this.global());
      case 0x51: // BINPERSID
        return this.push(this.storage(this.pop()));
      case 0x52: // REDUCE
        return this.reduce();
      case 0x62: // BUILD
        return this.build();
      case 0x73: // SETITEM
        return this.setItems(this.stack.length - 2);
      case 0x75: // SETITEMS
        return this.setItems(this.popMark());
      case 0x71: // BINPUT
        return this.put(this.u8());
      case 0x72: // LONG_BINPUT
        return this.put(this.u32());
      case 0x68: // BINGET
        return this.get(this.u8());
      case 0x6a: // LONG_BINGET
        return this.get(this.u32());
      default: {
        const name = OPCODES.get(opcode) ?? `0x${opcode.toString(16).padStart(2, "0")}`;
        throw new UnsafePickleError(
          `${this.name}: the opcode ${name} (byte ${this.at - 1}) is refused: only what torch.save writes for a dictionary of tensors is read, and nothing is executed`,
          name,
        );
      }
    }
  }

  private need(bytes: number): void {
    if (this.at + bytes > this.bytes.length) this.fail("it ends early");
    this.at += bytes;
  }

  private u8(): number {
    this.need(1);
    return this.bytes[this.at - 1]!;
  }

  private u32(): number {
    this.need(4);
    return this.data.getUint32(this.at - 4, true);
  }

  private spend(bytes: number): void {
    this.cost += bytes;
    if (this.cost > this.budget) this.fail("it asks for more memory than a pickle of its size needs");
  }

  private push(value: Value): void {
    if (this.stack.length >= MAX_STACK) this.fail(`more than ${MAX_STACK} values on the stack`);
    this.stack.push(value);
  }

  /** The top value; never one from below the last mark. */
  private pop(): Value {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) this.fail("a value is missing on the stack");
    return this.stack.pop()!;
  }

  private popMark(): number {
    const mark = this.marks.pop();
    return mark ?? this.fail("a mark is missing");
  }

  private protocol(): void {
    const version = this.u8();
    if (this.at !== 2) this.fail("PROTO within a pickle");
    if (version !== 2) this.fail(`pickle protocol ${version}; torch.save writes 2, save it again with its default`);
  }

  private long(): number {
    const n = this.u8();
    this.need(n);
    if (n > 8) this.fail(`an integer of ${n} bytes`);
    let value = 0n;
    for (let i = n - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[this.at - n + i]!);
    const signed = Number(BigInt.asIntN(8 * n, value));
    return Number.isSafeInteger(signed) ? signed : this.fail("an integer beyond 2^53 − 1");
  }

  private text(length: number): string {
    this.need(length);
    if (length > MAX_TEXT) this.fail(`a string of ${length} bytes; at most ${MAX_TEXT}`);
    this.spend(COST.string + length);
    try {
      return utf8.decode(this.bytes.subarray(this.at - length, this.at));
    } catch {
      return this.fail("a string is not UTF-8");
    }
  }

  private tuple(count: number): void {
    const start = this.stack.length - count;
    if (start < (this.marks.at(-1) ?? 0)) this.fail("values are missing on the stack");
    this.spend(COST.tuple + 8 * count);
    this.push(this.stack.splice(start, count));
  }

  private dict(): Dict {
    this.spend(COST.dict);
    return { kind: "dict", entries: null };
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0) this.fail("it ends early");
    if (end - this.at > MAX_TEXT) this.fail("a name is too long");
    const text = String.fromCharCode(...this.bytes.subarray(this.at, end));
    this.at = end + 1;
    return text;
  }

  private global(): Name {
    const asked = `${this.line()}.${this.line()}`;
    const name = NAMES.get(asked);
    if (name) return name;
    throw new UnsafePickleError(
      `${this.name}: it asks for ${quote(asked)}, which is refused: only tensors of bfloat16, float16 and float32 and their dictionary are read, and nothing is executed`,
      asked,
    );
  }

  /** `('storage', class, key, device, elements)` */
  private storage(id: Value): PickledStorage {
    const [tag, type, key, device, elements] = isTuple(id) && id.length === 5 ? id : EMPTY;
    if (
      tag !== "storage" ||
      !isKind(type, "name") ||
      !type.dtype ||
      typeof key !== "string" ||
      typeof device !== "string" ||
      !isCount(elements)
    ) {
      return this.fail("a persistent id that is not a storage");
    }
    this.spend(COST.storage);
    return { kind: "storage", key, dtype: type.dtype, elements };
  }

  private reduce(): void {
    const args = this.pop();
    const callee = this.pop();
    if (!isKind(callee, "name") || !isTuple(args))
      return this.fail("REDUCE of something that is not a known name and its arguments");
    if (callee.text === REBUILD_TENSOR) return this.push(this.tensor(args));
    if (callee.text !== ORDERED_DICT) return this.fail(`REDUCE of ${callee.text}`);
    if (args.length) this.fail("an OrderedDict with arguments");
    return this.push(this.dict());
  }

  /** `(storage, offset, size, stride, requires_grad, hooks)` */
  private tensor(args: readonly Value[]): PickledTensor {
    const [storage, first, shape, strides, requiresGrad, hooks] = args;
    const isShape = (value: Value | undefined): value is readonly number[] =>
      isTuple(value) && value.length <= MAX_RANK && value.every(isCount);
    if (args.length !== 6 || !isKind(storage, "storage") || !isCount(first) || typeof requiresGrad !== "boolean") {
      return this.fail("a tensor with other arguments than torch.save writes");
    }
    if (!isShape(shape) || !isShape(strides) || shape.length !== strides.length)
      return this.fail("a tensor whose size or strides are not whole numbers");
    if (!isKind(hooks, "dict") || hooks.entries) return this.fail("a tensor with hooks");
    const elements = elementCount(shape);
    const of = `a tensor of shape [${shape.join(", ")}]`;
    if (Number.isNaN(elements)) return this.fail(`${of} has too many elements`);
    if (elements > 0 && !isContiguous(shape, strides)) {
      return this.fail(
        `${of} with strides [${strides.join(", ")}] is not contiguous; save it again after .contiguous()`,
      );
    }
    if (first + elements > storage.elements)
      return this.fail(`${of} at offset ${first} reaches beyond its storage of ${storage.elements} elements`);
    this.spend(COST.tensor);
    return { kind: "tensor", storage, first, shape, elements };
  }

  /** Attributes of a dictionary (PyTorch's `_metadata`) are read and dropped. */
  private build(): void {
    const state = this.pop();
    const target = this.stack.at(-1);
    if (!isKind(target, "dict") || !isKind(state, "dict")) this.fail("BUILD of something other than a dictionary");
  }

  private setItems(start: number): void {
    if (start < 1 || start < (this.marks.at(-1) ?? 0) + 1) this.fail("values are missing on the stack");
    const target = this.stack[start - 1];
    if (!isKind(target, "dict")) return this.fail("items of something other than a dictionary");
    if ((this.stack.length - start) % 2) this.fail("a key without a value");
    for (let i = start; i < this.stack.length; i += 2) {
      const key = this.stack[i];
      if (typeof key !== "string") return this.fail("a key that is not a string");
      if (!target.entries) {
        this.spend(COST.entries);
        target.entries = new Map();
      }
      if (target.entries.has(key)) this.fail(`the key ${quote(key)} stands twice`);
      this.spend(COST.entry);
      target.entries.set(key, this.stack[i + 1]!);
    }
    this.stack.length = start;
  }

  /** The memo fills from 0 on without gaps; a program that writes elsewhere is no pickler's. */
  private put(index: number): void {
    if (index > this.memo.length) this.fail(`memo ${index} before memo ${this.memo.length}`);
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) this.fail("a value is missing on the stack");
    if (index === this.memo.length) this.spend(COST.memo);
    this.memo[index] = this.stack.at(-1)!;
  }

  private get(index: number): void {
    if (index >= this.memo.length) this.fail(`memo ${index} is empty`);
    this.push(this.memo[index]!);
  }
}

const isCount = (value: Value | undefined): value is number => typeof value === "number" && value >= 0;

/** Row-major, but dimensions of size 1 may have any stride. */
function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== step) return false;
    step *= shape[i]!;
  }
  return true;
}

/**
 * The dictionary of tensors that a pickle describes. `name` stands in front of messages. Throws `UnsafePickleError` for names and
 * opcodes outside the allow-list, `PickleError` for what is damaged or not a dictionary of tensors.
 */
export function readTensorPickle(bytes: Uint8Array, name: string): Map<string, PickledTensor> {
  if (bytes.length > MAX_PICKLE) throw new PickleError(`${name} has ${bytes.length} bytes; at most ${MAX_PICKLE}`);
  const machine = new Machine(bytes, name);
  const top = machine.run();
  if (!isKind(top, "dict")) return machine.fail("its top is not a dictionary");
  const tensors = new Map<string, PickledTensor>();
  for (const [key, value] of top.entries ?? []) {
    const problem = nameProblem(key);
    if (problem) machine.fail(problem);
    if (!isKind(value, "tensor")) return machine.fail(`${quote(key)} is not a tensor; save model.state_dict() alone`);
    if (tensors.size >= MAX_TENSORS) machine.fail(`more than ${MAX_TENSORS} tensors`);
    tensors.set(key, value);
  }
  return tensors;
}
