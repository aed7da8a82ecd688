/**
 * Tensors: strided views (shape, strides, offset in elements) of a storage, and read-backs. No arithmetic: ops are
 * functions in `kernels/`, which also attach the methods.
 */
import { DTYPES, checkDType, decode, elementBytes, encode, isFloat, storageBytes } from "./dtype.ts";
import type { DType, HostArray } from "./dtype.ts";
import {
  ArgumentError,
  AutogradError,
  DeviceError,
  DisposedError,
  KernelError,
  ShapeError,
  shapeText,
} from "./errors.ts";
import { getDevice } from "./device.ts";
import type { Device } from "./device.ts";
import { currentLabel } from "./label.ts";
import { knownOptions, shown } from "./options.ts";
import { checkShape, contiguousStrides, normalizeDim, sameShape, sizeOf } from "./shape.ts";
import type { Shape } from "./shape.ts";
import { adoptIntoScope, leaveScopes, noteKept } from "./scope.ts";
import { DeviceStorage } from "./storage.ts";
import type { TapeNode } from "./tape.ts";
import type { Binding } from "./types.ts";
import { writeWithinWord } from "./write_word.ts";

/** Maximum number of host integers that a tensor remembers: the document ids of a batch of 256 rows of 4096 tokens. */
const MAX_REMEMBERED = 2 ** 20;

/** Nested arrays of numbers, one level per dimension. */
export type Nested = number | readonly Nested[];

// The safety net: a tensor that is garbage-collected without dispose() releases its storage and is counted as a leak.
const collected = new FinalizationRegistry<Held>(({ storage, node }) => {
  storage.device.noteLeak();
  storage.release();
  node?.release();
});

/** Resources that a tensor must release; separate from the tensor, so that the safety net can refer to them. */
interface Held {
  readonly storage: DeviceStorage;
  node: TapeNode | null;
}

export interface TensorOptions {
  readonly dtype?: DType;
  readonly device?: Device;
  readonly requiresGrad?: boolean;
}

/**
 * An array of numbers on a device, or a view of one: shape, dtype, strides and storage, and its gradient if it needs one.
 * Ops are functions of `F`, and methods once `janus-webgpu` is imported. Reading is asynchronous: `item`, `data`, `array`.
 */
export class Tensor {
  // First, the fields that consoles of browsers show: they have no `inspect`.
  readonly shape: Shape;
  readonly dtype: DType;
  readonly device: Device;
  readonly storage: DeviceStorage;
  /** Stride of each dimension, in elements. */
  readonly strides: readonly number[];
  /** Offset from the start of the storage, in elements. */
  readonly offset: number;
  /** Number of elements. */
  readonly size: number;
  /** Gradient accumulated by `backward()`, f32, for leaves that require one. */
  grad: Tensor | null = null;
  private readonly held: Held;
  private wantsGrad = false;
  private gone = false;
  private watched = false;
  private cached: HostArray | null = null;

  /** Takes over one reference to `storage`. Use `tensor()`, `empty()` or the creation ops instead. */
  constructor(
    storage: DeviceStorage,
    shape: Shape,
    dtype: DType,
    strides: readonly number[] = contiguousStrides(shape),
    offset = 0,
  ) {
    this.shape = shape;
    this.dtype = dtype;
    this.device = storage.device;
    this.storage = storage;
    this.held = { storage, node: null };
    this.strides = strides;
    this.offset = offset;
    this.size = sizeOf(shape);
    if (!adoptIntoScope(this)) this.watch();
  }

  /** The tape entry that made it; null for leaves. */
  get node(): TapeNode | null {
    return this.held.node;
  }

  set node(node: TapeNode | null) {
    this.held.node = node;
  }

  get rank(): number {
    return this.shape.length;
  }

  get disposed(): boolean {
    return this.gone;
  }

  /** True if the elements are in row-major order without gaps. */
  get isContiguous(): boolean {
    let expected = 1;
    for (let i = this.shape.length - 1; i >= 0; i--) {
      if (this.shape[i] === 1) continue;
      if (this.strides[i] !== expected) return this.size === 0;
      expected *= this.shape[i]!;
    }
    return true;
  }

  /** True if it is contiguous and starts where a binding may start: kernels can bind it directly. */
  get isBindable(): boolean {
    return (
      this.isContiguous &&
      (this.offset * DTYPES[this.dtype].bits) % (8 * this.device.limits.minStorageBufferOffsetAlignment) === 0
    );
  }

  /**
   * True if the view can be written in place: kernels write whole granules of 16 bytes, so no granule of this view may
   * contain elements of another view.
   */
  get isWritable(): boolean {
    const end = elementBytes(this.dtype, this.offset + this.size);
    return this.isBindable && (end % 16 === 0 || end === this.storage.used);
  }

  /** True for a leaf that requires a gradient, and for results of such leaves. Throws `AutogradError` if set on a result or on integers. */
  get requiresGrad(): boolean {
    return this.wantsGrad || this.node !== null;
  }

  set requiresGrad(value: boolean) {
    if (value && !DTYPES[this.dtype].float)
      throw new AutogradError(`requiresGrad: the tensor must be f32, f16 or bf16; got ${this}. Cast it first.`);
    if (!value && this.node)
      throw new AutogradError(
        `requiresGrad: must be set to false on a leaf; got ${this}, the result of an op. Use detach().`,
      );
    this.wantsGrad = value;
  }

  get isLeaf(): boolean {
    return this.node === null;
  }

  /** Returns the size of dimension `dim`; negative values count from the end. */
  dim(dim: number): number {
    return this.shape[normalizeDim(dim, this.rank, "dim")]!;
  }

  /** Returns another view of the same storage, not recorded on the tape (the differentiable views are ops). */
  strided(shape: Shape, strides: readonly number[], offset = this.offset): Tensor {
    this.check();
    return new Tensor(this.storage.retain(), shape, this.dtype, strides, offset);
  }

  /** Returns a view of the same values that is not on the tape. */
  detach(): Tensor {
    return this.strided(this.shape, this.strides);
  }

  /** Returns the byte range of `elements` from element `start` of a contiguous tensor, for a launch. */
  binding(start: number, elements: number): Binding {
    const offset = elementBytes(this.dtype, this.offset + start);
    const align = this.device.limits.minStorageBufferOffsetAlignment;
    if (offset % align !== 0) {
      throw new KernelError(
        `a binding must start at a multiple of ${align} bytes; got ${this} at byte ${offset} of its storage. Pass contiguous(x), or windows that start at such multiples.`,
      );
    }
    return {
      storage: this.storage,
      offset,
      size: Math.min(storageBytes(this.dtype, elements), this.storage.bytes - offset),
    };
  }

  /** Reads the values back in row-major order: a Float32Array for f32, f16 and bf16, else the integer array of the dtype. */
  async data(): Promise<HostArray> {
    this.check();
    if (this.size === 0) return decode(new Uint8Array(0), this.dtype, 0);
    // The range of the storage that the view covers, from a multiple of 4 bytes.
    let last = this.offset;
    for (let i = 0; i < this.rank; i++) last += (this.shape[i]! - 1) * this.strides[i]!;
    const perWord = 32 / DTYPES[this.dtype].bits;
    const first = Math.floor(this.offset / perWord) * perWord;
    const count = last + 1 - first;
    const bytes = await this.device.read({
      storage: this.storage,
      offset: elementBytes(this.dtype, first),
      size: elementBytes(this.dtype, count),
    });
    const span = decode(bytes, this.dtype, count);
    if (this.isContiguous && first === this.offset) return span;
    return gather(span, this.shape, this.strides, this.offset - first);
  }

  /**
   * Reads the stored bytes `offset` to `offset + length` of a contiguous tensor, in its dtype without conversion, e.g.
   * to read a large tensor in parts. Throws `ShapeError` if it is not contiguous, `ArgumentError` for a range outside
   * it.
   */
  async readBytes(offset = 0, length = elementBytes(this.dtype, this.size) - offset): Promise<Uint8Array> {
    this.check();
    if (!this.isContiguous)
      throw new ShapeError(`readBytes: the tensor must be contiguous; got ${this}. Pass contiguous(x).`);
    const all = elementBytes(this.dtype, this.size);
    if (![offset, length].every(Number.isInteger) || offset < 0 || length < 0 || offset + length > all) {
      throw new ArgumentError(
        `readBytes: the range must be within the ${all} bytes of ${this}; got ${length} bytes at ${offset}. Read a range inside it.`,
      );
    }
    if (length === 0) return new Uint8Array(0);
    const start = elementBytes(this.dtype, this.offset) + offset;
    const skip = start % 4; // copies start at whole words
    const bytes = await this.device.read({ storage: this.storage, offset: start - skip, size: skip + length });
    return bytes.subarray(skip, skip + length);
  }

  /**
   * Writes stored bytes from byte `offset` of a contiguous tensor on, in its dtype without conversion: the inverse of
   * `readBytes`. Any offset and length within the tensor are allowed; other bytes do not change. Throws `ShapeError` if
   * the tensor is not contiguous, `ArgumentError` for a range outside it.
   */
  writeBytes(bytes: Uint8Array, offset = 0): void {
    this.check();
    if (!this.isContiguous)
      throw new ShapeError(`writeBytes: the tensor must be contiguous; got ${this}. Write to a separate tensor.`);
    const all = elementBytes(this.dtype, this.size);
    if (!Number.isInteger(offset) || offset < 0 || offset + bytes.length > all) {
      throw new ArgumentError(
        `writeBytes: the range must be within the ${all} bytes of ${this}; got ${bytes.length} bytes at ${offset}. Write to a range inside it.`,
      );
    }
    const { device, storage } = this;
    const start = elementBytes(this.dtype, this.offset) + offset;
    const end = start + bytes.length;
    // Uploads move whole words. The padding after the storage's last element may become 0; other partial words are
    // merged.
    const first = Math.min(Math.ceil(start / 4) * 4, end);
    const last = Math.max(first, end === storage.used ? end : Math.floor(end / 4) * 4);
    device.write({ storage, offset: first, size: last - first }, bytes.subarray(first - start, last - start));
    if (start < first) writeWithinWord(storage, start, bytes.subarray(0, first - start));
    if (last < end) writeWithinWord(storage, last, bytes.subarray(last - start));
  }

  /** Reads the value of a tensor with one element. Throws `ShapeError` for any other size. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new ShapeError(`item: the tensor must have one element; got ${this} with ${this.size}. Use data().`);
    return (await this.data())[0]!;
  }

  /** Reads the values back as nested arrays. */
  async array(): Promise<Nested> {
    const flat = await this.data();
    const nest = (dim: number, at: number): Nested => {
      if (dim === this.rank) return flat[at]!;
      const step = sizeOf(this.shape.slice(dim + 1));
      return Array.from({ length: this.shape[dim]! }, (_, i) => nest(dim + 1, at + i * step));
    };
    return nest(0, 0);
  }

  /** Reads the values back, prints the tensor with them, and returns it. */
  async print(): Promise<this> {
    this.cached = await this.data();
    console.log(this.toString());
    return this;
  }

  toString(): string {
    const head = `Tensor(${shapeText(this.shape)} ${this.dtype}${this.gone ? ", disposed" : ""})`;
    return this.cached ? `${head} ${format(this.cached, this.shape)}` : head;
  }

  /** Text for `console.log` in Node. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.description();
  }

  /** Describes the tensor: shape, dtype, device, gradient state, and the values if they were read. */
  private description(): string {
    const state = this.gone ? ", disposed" : "";
    const grad = this.wantsGrad ? ", requiresGrad" : this.node ? `, made by ${this.node.name}` : "";
    const head = `${this.constructor.name}(${shapeText(this.shape)} ${this.dtype} on ${this.device}${grad}${state})`;
    return this.cached ? `${head} ${format(this.cached, this.shape)}` : head;
  }

  /** Releases the storage (it is freed once no view or tape entry uses it). Calling it twice is allowed. */
  dispose(): void {
    if (this.gone) return;
    this.gone = true;
    if (this.watched) collected.unregister(this);
    leaveScopes(this);
    this.storage.release();
    this.node?.release();
    this.grad?.dispose();
    this.grad = null;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Removes the tensor from every scope: it lives until `dispose()`. */
  keep(): this {
    this.escape();
    this.watch();
    noteKept(this);
    return this;
  }

  /** Like `keep`, without the safety net: for an owner that always disposes it. */
  escape(): this {
    leaveScopes(this);
    return this;
  }

  /** Puts the tensor under the garbage collector's safety net (done for tensors outside all scopes). */
  watch(): void {
    if (this.watched) return;
    this.watched = true;
    collected.register(this, this.held, this);
  }

  /** Throws `DisposedError` if the tensor was disposed. */
  check(): void {
    if (this.gone)
      throw new DisposedError(
        `a tensor must not be disposed; got ${this}${currentLabel() ? ` (in ${currentLabel()})` : ""}, which was disposed. Keep it out of the scope, or return it from the scope.`,
      );
    this.device.check();
  }
}

/** Creates a tensor with undefined contents. `label` names it in the out-of-memory table. */
export function empty(shape: Shape, options: TensorOptions & { label?: string } = {}): Tensor {
  const dtype = options.dtype ?? "f32";
  checkDType(dtype);
  checkShape(shape, "empty");
  const device = options.device ?? getDevice();
  device.check();
  const out = new Tensor(
    new DeviceStorage(
      device,
      storageBytes(dtype, sizeOf(shape)),
      options.label ?? (currentLabel() || "tensor"),
      elementBytes(dtype, sizeOf(shape)),
    ),
    [...shape],
    dtype,
  );
  if (options.requiresGrad) out.requiresGrad = true;
  return out;
}

/** `empty` for host data: inside `atomic`, it does not reuse buffers of freed tensors whose launches are pending. */
export function emptyForHost(shape: Shape, options: TensorOptions & { label?: string }): Tensor {
  const passed: Tensor[] = [];
  try {
    for (;;) {
      const out = empty(shape, options);
      if (!out.device.queue.isWaiting(out.storage.live())) return out;
      passed.push(out);
    }
  } finally {
    for (const t of passed) t.dispose();
  }
}

/**
 * Creates a tensor from nested arrays, or from a typed array with a `shape`. The default dtype depends on the data: i32
 * for Int32Array, u32 for Uint32Array, u8 for Uint8Array, else f32. Throws `ArgumentError` for other values,
 * `ShapeError` if their number does not fit the shape.
 */
export function tensor(
  values: Nested | HostArray | Float64Array,
  options: TensorOptions & { shape?: Shape } = {},
): Tensor {
  knownOptions("tensor", options, ["dtype", "device", "requiresGrad", "shape"]);
  const typed = ArrayBuffer.isView(values);
  if (!typed && !Array.isArray(values) && typeof values !== "number")
    throw new ArgumentError(
      `tensor: values must be a number, an array or a typed array; got ${shown(values)}. Pass e.g. [[1, 2], [3, 4]].`,
    );
  const shape = options.shape ?? (typed ? [values.length] : nestedShape(values));
  const flat = typed
    ? values
    : typeof values === "number"
      ? [values]
      : ((values as unknown[]).flat(Infinity) as number[]);
  checkShape(shape, "tensor");
  if (!typed && !flat.every((v) => typeof v === "number"))
    throw new ArgumentError(
      "tensor: values must be numbers, nested arrays of numbers or typed arrays; got an element that is not a number. Convert booleans, strings and BigInts first.",
    );
  if (typed && (values instanceof BigInt64Array || values instanceof BigUint64Array))
    throw new ArgumentError(
      "tensor: values must have a dtype; got a BigInt array. Convert it to Int32Array or numbers.",
    );
  if (flat.length !== sizeOf(shape))
    throw new ShapeError(
      `tensor: shape ${shapeText(shape)} must have as many elements as there are values; got ${sizeOf(shape)} and ${flat.length}. Change one of them.`,
    );
  const dtype = options.dtype ?? dtypeOf(values);
  checkDType(dtype);
  const bytes = encode(flat, dtype);
  const out = emptyForHost(shape, { ...options, dtype });
  out.device.write({ storage: out.storage, offset: 0, size: bytes.byteLength }, bytes);
  if (!isFloat(dtype) && flat.length <= MAX_REMEMBERED) out.storage.rememberHost(flat.slice());
  return out;
}

/** Creates a tensor from stored bytes (e.g. of a checkpoint) without conversion. Throws `ShapeError` if their number does not fit. */
export function tensorFromBytes(bytes: Uint8Array, shape: Shape, dtype: DType, device?: Device): Tensor {
  checkShape(shape, "tensorFromBytes");
  if (bytes.byteLength !== elementBytes(dtype, sizeOf(shape))) {
    throw new ShapeError(
      `tensorFromBytes: ${shapeText(shape)} ${dtype} must have ${elementBytes(dtype, sizeOf(shape))} bytes; got ${bytes.byteLength}. Check the shape and dtype.`,
    );
  }
  const out = emptyForHost(shape, device ? { dtype, device } : { dtype });
  out.device.write({ storage: out.storage, offset: 0, size: bytes.byteLength }, bytes);
  return out;
}

/**
 * Checks that all tensors are alive and on one device, and returns the device. Throws `ArgumentError`, `DisposedError`
 * or `DeviceError`.
 */
export function checkTensors(op: string, ...tensors: readonly (Tensor | null)[]): Device {
  let device: Device | null = null;
  for (const [i, t] of tensors.entries()) {
    if (t === null) continue;
    // Plain JavaScript leaves arguments out, or passes numbers and arrays.
    if (!(t instanceof Tensor))
      throw new ArgumentError(
        `${op}: tensor ${i + 1} of ${tensors.length} must be a Tensor; got ${shown(t)}. Create one with tensor(values).`,
      );
    if (t.disposed)
      throw new DisposedError(
        `${op}: tensor ${i + 1} must not be disposed; got ${t}. Keep it out of the scope, or return it from the scope.`,
      );
    device ??= t.device;
    if (t.device !== device)
      throw new DeviceError(`${op}: tensors must be on one device; got ${device} and ${t.device}. Move one of them.`);
  }
  if (!device) throw new ArgumentError(`${op}: at least one tensor is required; got none. Pass one.`);
  device.check();
  return device;
}

function nestedShape(values: Nested): number[] {
  if (!Array.isArray(values)) return [];
  const inner = values.map(nestedShape);
  const first = inner[0] ?? [];
  for (const [i, s] of inner.entries()) {
    if (!sameShape(s, first))
      throw new ShapeError(
        `tensor: nested arrays must have equal lengths; got shape ${shapeText(first)} for element 0 and ${shapeText(s)} for element ${i}. Pad or split them.`,
      );
  }
  return [values.length, ...first];
}

function dtypeOf(values: unknown): DType {
  if (values instanceof Int32Array) return "i32";
  if (values instanceof Uint32Array) return "u32";
  return values instanceof Uint8Array ? "u8" : "f32";
}

function gather(span: HostArray, shape: Shape, strides: readonly number[], offset: number): HostArray {
  const out = new (span.constructor as new (n: number) => HostArray)(sizeOf(shape));
  let at = 0;
  const walk = (dim: number, from: number): void => {
    if (dim === shape.length) out[at++] = span[from]!;
    else for (let i = 0; i < shape[dim]!; i++) walk(dim + 1, from + i * strides[dim]!);
  };
  walk(0, offset);
  return out;
}

function format(values: HostArray, shape: Shape): string {
  const text = (v: number): string => (Number.isInteger(v) ? String(v) : v.toPrecision(5));
  const walk = (dim: number, at: number): string => {
    if (dim === shape.length) return text(values[at]!);
    const n = shape[dim]!;
    const step = sizeOf(shape.slice(dim + 1));
    const index = n <= 8 ? [...Array(n).keys()] : [0, 1, 2, -1, n - 3, n - 2, n - 1];
    const parts = index.map((i) => (i < 0 ? "…" : walk(dim + 1, at + i * step)));
    return `[${parts.join(dim === shape.length - 1 ? ", " : `,\n${" ".repeat(dim + 1)}`)}]`;
  };
  return walk(0, 0);
}
