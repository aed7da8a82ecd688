/** The memory of tensors: a buffer of the pool, shared by the tensors and tape entries that use it. */
import type { Device } from "./device.ts";
import { DisposedError } from "./errors.ts";
import type { PoolBuffer } from "./pool.ts";
import type { Storage } from "./types.ts";

let nextSerial = 0;

/** Returns the serial number of the next storage on any device: older storages have lower numbers. */
export const nextStorageSerial = (): number => nextSerial;

/** A reference-counted buffer of the pool. */
export class DeviceStorage implements Storage {
  readonly device: Device;
  readonly bytes: number;
  readonly used: number;
  readonly label: string;
  readonly serial = nextSerial++;
  private constant = false;
  private writes = 0;
  /** Integers that the host wrote, and the version of the storage with these contents. */
  private host: { readonly values: ArrayLike<number>; readonly version: number } | null = null;
  private buffer: PoolBuffer | null;
  private users = 1;

  /** @param used bytes of elements, without the padding up to `bytes` */
  constructor(device: Device, bytes: number, label: string, used = bytes) {
    this.device = device;
    this.bytes = bytes;
    this.used = used;
    this.label = label;
    this.buffer = device.pool.acquire(bytes, label);
    if (device.poison && !device.queue.isAtomic) device.queue.upload(this.buffer, 0, new Uint8Array(bytes).fill(0xff));
  }

  get isConstant(): boolean {
    return this.constant;
  }

  get version(): number {
    return this.writes;
  }

  get isLive(): boolean {
    return this.buffer !== null;
  }

  get exclusive(): boolean {
    return this.users === 1;
  }

  live(): PoolBuffer {
    if (!this.buffer)
      throw new DisposedError(
        `a storage must be alive; got one that was freed (${this.label}, ${this.bytes} bytes). Keep its tensor out of the scope.`,
      );
    return this.buffer;
  }

  markWritten(): void {
    this.writes++;
  }

  markConstant(): void {
    this.constant = true;
  }

  /** Remembers integers that the host wrote, for costs that depend on them (which keys a query attends to). */
  rememberHost(values: ArrayLike<number>): void {
    this.host = { values, version: this.writes };
  }

  /** Returns the integers that the host wrote, if nothing was written since. */
  get hostValues(): ArrayLike<number> | null {
    return this.host?.version === this.writes ? this.host.values : null;
  }

  /** Frees the buffer but not the storage: its tensors cannot be used until `restore`. */
  evict(): void {
    const buffer = this.live();
    this.device.pool.release(buffer, this.bytes, this.label);
    this.buffer = null;
  }

  /** Gives an evicted storage a buffer, of undefined contents. */
  restore(): void {
    if (this.users < 1 || this.buffer) return;
    this.buffer = this.device.pool.acquire(this.bytes, this.label);
    this.markWritten();
  }

  retain(): this {
    this.live();
    this.users++;
    return this;
  }

  release(): void {
    if (--this.users > 0 || !this.buffer) return;
    this.device.pool.release(this.buffer, this.bytes, this.label);
    this.buffer = null;
  }
}
