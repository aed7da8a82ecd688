/**
 * Open MPI as a `Transport`, through koffi. Only non-blocking calls, which are tested from the event loop: the GPU's
 * callbacks and signals come in between. MPI_COMM_WORLD and datatypes are addresses in Open MPI and numbers in MPICH; this binding is for the former.
 */
import { hostname } from "node:os";
import { sleep } from "../../../engine/index.ts";
import { messageOf } from "../../../engine/errors.ts";
import { RankError } from "../../rank_group.ts";
import type { Transport } from "../../rank_group.ts";
import { Heartbeat } from "./heartbeat.ts";

type Pointer = unknown;
type Call = (...args: unknown[]) => number;

/** Tried in this order; JANUS_MPI_LIBRARY names another one. */
const LIBRARIES = ["libmpi.so.40", "libmpi.so", "libmpi.40.dylib", "libmpi.dylib"];
const THREADS_MULTIPLE = 3;
const LEVELS = ["single", "funneled", "serialized", "multiple"];
const VERSION_BYTES = 8192;
const MAX_SPIN = 64;
/** Counts of MPI are 32-bit. */
const MAX_BYTES = 2 ** 31 - 1;
/** How long a rank may be silent, s: as long as compiling kernels and other work without a pause can take, several times over. */
const TIMEOUT = 300;
const BEAT_TAG = 1;

export interface MpiLibrary {
  /** First line of what the library says of itself. */
  readonly version: string;
  readonly file: string;
  readonly load: (signature: string) => Call;
  readonly symbol: (name: string) => Pointer;
}

/** Loads Open MPI. Throws `RankError` if there is none, or another MPI. */
export async function openMpiLibrary(): Promise<MpiLibrary> {
  const name = "koffi"; // a variable, so that no bundler follows it
  const koffi = await import(name).then(
    (module: { default: typeof import("koffi") }) => module.default,
    (error: unknown) => {
      // prettier-ignore
      throw new RankError(`mpi: the optional package koffi must be installed to train on several processes; got ${messageOf(error)}. Run: npm install koffi`); // prettier-ignore
    },
  );
  const named = process.env["JANUS_MPI_LIBRARY"];
  const files = named ? [named] : LIBRARIES;
  const problems: string[] = [];
  for (const file of files) {
    try {
      // Open MPI's plugins look for its symbols among those of the process.
      const library = koffi.load(file, { global: true });
      const version = versionOf(library.func("int MPI_Get_library_version(void *, void *)") as Call);
      if (!version.startsWith("Open MPI"))
        throw new RankError(`mpi: the MPI library must be Open MPI, because others have different handles; got ${version} (${file}). Install Open MPI 4.1 or 5 and start with its mpirun, or name its library in JANUS_MPI_LIBRARY.`); // prettier-ignore
      return { version, file, load: (signature) => library.func(signature) as Call, symbol: (each) => library.symbol(each, "void") as Pointer }; // prettier-ignore
    } catch (error) {
      if (error instanceof RankError) throw error;
      problems.push(messageOf(error).split("\n")[0]!);
    }
  }
  throw new RankError(`mpi: Open MPI's library must be installed; got ${problems.join("; ")}. Install it (Debian: openmpi-bin libopenmpi-dev), or name the library in JANUS_MPI_LIBRARY.`); // prettier-ignore
}

function versionOf(call: Call): string {
  const [text, length] = [Buffer.alloc(VERSION_BYTES), new Int32Array(new ArrayBuffer(4096))];
  call(text, length);
  return text.toString("utf8", 0, text.indexOf(0)).split("\n")[0]!;
}

/** An array that does not move while MPI works on it: only memory of an ArrayBuffer stays where it is. */
const pinned = (values: readonly number[]): Int32Array => {
  const array = new Int32Array(new ArrayBuffer(Math.max(4096, 4 * values.length)), 0, values.length);
  array.set(values);
  return array;
};

/** Offsets of pieces that lie one after the other. */
function offsets(lengths: readonly number[]): number[] {
  let at = 0;
  return lengths.map((length) => (at += length) - length);
}

export class Mpi implements Transport {
  readonly rank: number;
  readonly size: number;
  readonly library: MpiLibrary;
  /** What the library grants, e.g. `multiple`. */
  readonly threads: string;
  private readonly call: ReturnType<typeof callsOf>;
  private readonly world: Pointer;
  private readonly byte: Pointer;
  private heartbeat: Heartbeat | null = null;
  private endBeats: () => void = () => undefined;
  private isOver = false;

  private constructor(library: MpiLibrary) {
    this.library = library;
    this.call = callsOf(library);
    this.world = library.symbol("ompi_mpi_comm_world");
    this.byte = library.symbol("ompi_mpi_byte");
    const number = pinned([0]);
    this.check("MPI_Init_thread", this.call.init(null, null, THREADS_MULTIPLE, number));
    this.threads = LEVELS[number[0]!] ?? String(number[0]);
    // Before anything can fail: errors are then returned instead of ending the process without a word.
    this.check("MPI_Comm_set_errhandler", this.call.setErrors(this.world, library.symbol("ompi_mpi_errors_return")));
    this.check("MPI_Comm_rank", this.call.rank(this.world, number));
    this.rank = number[0]!;
    this.check("MPI_Comm_size", this.call.size(this.world, number));
    this.size = number[0]!;
    // Whatever ends this process before its time ends the others too, under launchers that do not.
    process.once("exit", (code) => {
      if (!this.isOver) this.call.abort(this.world, code || 1);
    });
  }

  /** Joins the processes that mpirun or srun has started. Throws `RankError` if Open MPI is not there. */
  static async start(): Promise<Mpi> {
    return new Mpi(await openMpiLibrary());
  }

  async allGather(own: Uint8Array, lengths?: readonly number[]): Promise<Uint8Array[]> {
    return this.gatherBytes(own, lengths ?? (await this.gatherLengths(own.length)));
  }

  async allToAll(parts: readonly Uint8Array[], lengths?: readonly number[]): Promise<Uint8Array[]> {
    const sent = parts.map(({ length }) => length);
    const received = lengths ?? (await this.exchangeLengths(sent));
    const total = received.reduce((sum, length) => sum + length, 0);
    requireCount(
      Math.max(
        total,
        sent.reduce((sum, length) => sum + length, 0),
      ),
    );
    const [from, to] = [Buffer.concat([...parts, Buffer.alloc(1)]), new Uint8Array(new ArrayBuffer(Math.max(4096, total)))]; // prettier-ignore
    const [at, places] = [offsets(sent), offsets(received)];
    const [counts, displacements, gets, getsAt] = [sent, at, received, places].map(pinned);
    await this.wait("MPI_Ialltoallv", (request) =>
      this.call.allToAll(from, counts, displacements, this.byte, to, gets, getsAt, this.byte, this.world, request),
    );
    return received.map((length, p) => to.subarray(places[p]!, places[p]! + length));
  }

  /**
   * Calls `onSilence` with a `RankError` if the rank before this one is silent for longer than JANUS_MPI_TIMEOUT. All ranks call it. Returns what sets a
   * probe without whose answer this rank is silent too.
   */
  async watch(onSilence: (error: RankError) => void): Promise<Heartbeat["watch"]> {
    const timeoutMs = timeoutOf(process.env["JANUS_MPI_TIMEOUT"]);
    const hosts = await this.allGather(new TextEncoder().encode(hostname()));
    const before = (this.rank + this.size - 1) % this.size;
    const name = `rank ${before} on ${new TextDecoder().decode(hosts[before])}`;
    const onTimeout = (): void => onSilence(new RankError(`mpi: every rank must show that it runs; got nothing from ${name} for ${timeoutMs / 1000} s (JANUS_MPI_TIMEOUT). Look there for a process that is suspended or a GPU that hangs; the same command resumes from the last checkpoint.`)); // prettier-ignore
    this.heartbeat = new Heartbeat(this.beats(before), { timeoutMs, onSilence: onTimeout });
    this.heartbeat.start();
    return (probe) => this.heartbeat!.watch(probe);
  }

  /** Ends all processes of the world with `code`. Does not return. */
  abort(code: number): never {
    this.isOver = true;
    this.call.abort(this.world, code);
    process.exit(code);
  }

  /** Leaves the world; all processes do. */
  async finish(): Promise<void> {
    await this.allGather(new Uint8Array(), new Array<number>(this.size).fill(0)); // one that waits here is watched, in MPI_Finalize it is not
    this.heartbeat?.stop();
    this.endBeats();
    this.isOver = true;
    this.check("MPI_Finalize", this.call.finalize());
  }

  /** Beats in the ring, from rank `before`. */
  private beats(before: number): { send: () => void; heard: () => boolean } {
    const { call, world, byte } = this;
    const [sending, receiving] = [1, 2].map(() => new BigUint64Array(new ArrayBuffer(4096)));
    const [sent, got] = [new Uint8Array(new ArrayBuffer(4096)), new Uint8Array(new ArrayBuffer(4096))];
    const done = pinned([0]);
    const isDone = (request: BigUint64Array): boolean => {
      this.check("MPI_Test", call.test(request, done, null));
      return done[0] !== 0;
    };
    const after = (this.rank + 1) % this.size;
    const listen = (): void => this.check("MPI_Irecv", call.receive(got, 1, byte, before, BEAT_TAG, world, receiving));
    const send = (): void => this.check("MPI_Isend", call.send(sent, 1, byte, after, BEAT_TAG, world, sending));
    send();
    listen();
    this.endBeats = () => {
      this.check("MPI_Cancel", call.cancel(receiving));
      for (const request of [receiving, sending]) this.check("MPI_Wait", call.wait(request, null));
    };
    return {
      send: () => {
        if (isDone(sending!)) send();
      },
      heard: () => {
        let isHeard = false;
        for (; isDone(receiving!); isHeard = true) listen();
        return isHeard;
      },
    };
  }

  /** `rank 2 on HOST`. */
  get name(): string {
    return `rank ${this.rank} on ${hostname()}`;
  }

  private async gatherLengths(own: number): Promise<number[]> {
    requireCount(own);
    const bytes = new Uint8Array(pinned([own]).buffer.slice(0, 4));
    const all = await this.gatherBytes(bytes, new Array<number>(this.size).fill(4));
    return all.map((each) => new Int32Array(each.slice().buffer)[0]!);
  }

  /** How many bytes each process gives this one. */
  private async exchangeLengths(sent: readonly number[]): Promise<number[]> {
    const bytes = 4 * this.size;
    const all = await this.gatherBytes(new Uint8Array(pinned(sent).buffer.slice(0, bytes)), sent.map(() => bytes)); // prettier-ignore
    return all.map((each) => new Int32Array(each.slice().buffer)[this.rank]!);
  }

  private async gatherBytes(own: Uint8Array, lengths: readonly number[]): Promise<Uint8Array[]> {
    const total = lengths.reduce((sum, length) => sum + length, 0);
    requireCount(total);
    const [from, to] = [Buffer.concat([own, Buffer.alloc(1)]), new Uint8Array(new ArrayBuffer(Math.max(4096, total)))];
    const at = offsets(lengths);
    const [counts, displacements] = [pinned(lengths), pinned(at)];
    await this.wait("MPI_Iallgatherv", (request) =>
      this.call.allGather(from, own.length, this.byte, to, counts, displacements, this.byte, this.world, request),
    );
    return lengths.map((length, p) => to.subarray(at[p]!, at[p]! + length));
  }

  /** Starts a call and tests it until it is complete. What the call was given stays reachable meanwhile through `start`. */
  private async wait(name: string, start: (request: BigUint64Array) => number): Promise<void> {
    const request = new BigUint64Array(new ArrayBuffer(4096));
    const done = pinned([0]);
    this.check(name, start(request));
    for (let turn = 0; ; turn++) {
      this.check(name, this.call.test(request, done, null));
      if (done[0]) break;
      if (turn < MAX_SPIN) await new Promise((resolve) => setImmediate(resolve));
      else await sleep(1);
    }
    void start;
  }

  private check(name: string, code: number): void {
    if (code === 0) return;
    const [text, length] = [Buffer.alloc(VERSION_BYTES), pinned([0])];
    this.call.errorText(code, text, length);
    throw new RankError(`mpi: ${name} must succeed in ${this.name}; got ${text.toString("utf8", 0, text.indexOf(0))}. Look for the process that ended first.`); // prettier-ignore
  }
}

/** How long a rank may be silent, ms. */
function timeoutOf(seconds: string | undefined): number {
  const ms = 1000 * Number(seconds || TIMEOUT);
  if (!(ms > 0)) throw new RankError(`mpi: JANUS_MPI_TIMEOUT must be a number of seconds above 0; got ${seconds}. Correct it, or leave it out.`); // prettier-ignore
  return ms;
}

function requireCount(bytes: number): void {
  if (bytes > MAX_BYTES)
    throw new RankError(`mpi: a message must have at most ${MAX_BYTES} bytes; got ${bytes}. Use smaller buckets.`);
}

const callsOf = ({ load }: MpiLibrary) => ({
  init: load("int MPI_Init_thread(void *, void *, int, void *)"),
  finalize: load("int MPI_Finalize()"),
  abort: load("int MPI_Abort(void *, int)"),
  rank: load("int MPI_Comm_rank(void *, void *)"),
  size: load("int MPI_Comm_size(void *, void *)"),
  setErrors: load("int MPI_Comm_set_errhandler(void *, void *)"),
  errorText: load("int MPI_Error_string(int, void *, void *)"),
  test: load("int MPI_Test(void *, void *, void *)"),
  wait: load("int MPI_Wait(void *, void *)"),
  cancel: load("int MPI_Cancel(void *)"),
  send: load("int MPI_Isend(void *, int, void *, int, int, void *, void *)"),
  receive: load("int MPI_Irecv(void *, int, void *, int, int, void *, void *)"),
  allGather: load("int MPI_Iallgatherv(void *, int, void *, void *, void *, void *, void *, void *, void *)"),
  allToAll: load("int MPI_Ialltoallv(void *, void *, void *, void *, void *, void *, void *, void *, void *, void *)"),
});
