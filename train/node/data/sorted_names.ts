/** Names of a folder in order, more of them than memory could hold: sorted runs in a temporary file, merged as they are read. */
import { open, unlink } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Names in memory before they are written: about 30 MB. */
const MAX_NAMES = 200_000;
/** Bytes read of each run at a time: 100 million names are 500 runs. */
const READ_BYTES = 2 ** 14;

let files = 0;

/** Names in order. */
interface Run {
  /** The next name; undefined at the end. */
  readonly head: string | undefined;
  advance(): Promise<void>;
}

/** A run in the file: lines of JSON strings, since a name may contain a line break. */
class FileRun implements Run {
  head: string | undefined;
  private lines: string[] = [];
  private next = 0;
  private rest = Buffer.alloc(0);
  private readonly file: FileHandle;
  private at: number;
  private readonly end: number;

  constructor(file: FileHandle, at: number, end: number) {
    this.file = file;
    this.at = at;
    this.end = end;
  }

  async advance(): Promise<void> {
    if (this.next === this.lines.length) await this.read();
    const line = this.lines[this.next++];
    this.head = line === undefined ? undefined : (JSON.parse(line) as string);
  }

  private async read(): Promise<void> {
    [this.lines, this.next] = [[], 0];
    while (this.lines.length === 0 && this.at < this.end) {
      const bytes = Buffer.alloc(Math.min(READ_BYTES, this.end - this.at));
      const { bytesRead } = await this.file.read(bytes, 0, bytes.length, this.at);
      if (bytesRead === 0) throw new RangeError(`a temporary file in ${tmpdir()} has become shorter`);
      this.at += bytesRead;
      const all = Buffer.concat([this.rest, bytes.subarray(0, bytesRead)]);
      const last = all.lastIndexOf(0x0a);
      this.rest = all.subarray(last + 1);
      if (last >= 0) this.lines = all.toString("utf8", 0, last).split("\n");
    }
  }
}

/** Merges runs by a binary heap of their heads. */
async function* merged(runs: readonly Run[]): AsyncGenerator<string> {
  const heap: Run[] = [];
  const down = (from: number): void => {
    for (let i = from; ;) {
      const [left, right] = [2 * i + 1, 2 * i + 2];
      let least = i;
      if (left < heap.length && heap[left]!.head! < heap[least]!.head!) least = left;
      if (right < heap.length && heap[right]!.head! < heap[least]!.head!) least = right;
      if (least === i) return;
      [heap[i], heap[least]] = [heap[least]!, heap[i]!];
      i = least;
    }
  };
  for (const run of runs) {
    await run.advance();
    if (run.head !== undefined) heap.push(run);
  }
  for (let i = heap.length >> 1; i >= 0; i--) down(i);
  while (heap.length) {
    const run = heap[0]!;
    yield run.head!;
    await run.advance();
    if (run.head === undefined) {
      const last = heap.pop()!;
      if (heap.length) heap[0] = last;
    }
    down(0);
  }
}

/** `names` in the order of their UTF-16 codes: the same on every machine. At most `most` of them are in memory. */
export async function* sortedNames(names: AsyncIterable<string>, most = MAX_NAMES): AsyncGenerator<string> {
  let some: string[] = [];
  let file: FileHandle | null = null;
  const runs: FileRun[] = [];
  let end = 0;
  try {
    for await (const name of names) {
      if (some.push(name) < most) continue;
      file ??= await temporaryFile();
      const bytes = Buffer.from(some.sort().map((one) => `${JSON.stringify(one)}\n`).join("")); // prettier-ignore
      await file.writeFile(bytes);
      runs.push(new FileRun(file, end, (end += bytes.length)));
      some = [];
    }
    some.sort();
    if (runs.length === 0) return yield* some;
    yield* merged([...runs, new MemoryRun(some)]);
  } finally {
    await file?.close();
  }
}

class MemoryRun implements Run {
  head: string | undefined;
  private readonly names: readonly string[];
  private next = 0;

  constructor(names: readonly string[]) {
    this.names = names;
  }

  async advance(): Promise<void> {
    this.head = this.names[this.next++];
  }
}

async function temporaryFile(): Promise<FileHandle> {
  const path = join(tmpdir(), `janus-names-${process.pid}-${++files}`);
  const file = await open(path, "wx+", 0o600);
  await unlink(path).catch(() => undefined); // gone once it is closed, also by a crash
  return file;
}
