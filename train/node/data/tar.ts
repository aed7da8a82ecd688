/**
 * Tar files, read in place: where the contents of their members are. Nothing is unpacked. Headers are decoded by `tar` (BlueOak-1.0.0, npm's
 * own; only its header and pax modules are loaded), which is strict about the orders of headers that programs read differently.
 */
import type { Header, HeaderData } from "tar/header";
import type { RandomAccess } from "../../../model/io/bytes.ts";
import { quote } from "../../../model/io/errors.ts";
import { SourceError } from "../../data/errors.ts";

const BLOCK = 512;
/** Bytes of a pax header or a long name; names have 4,096 at most. */
const MAX_EXTENSION = 2 ** 20;
/** Pieces of a sparse file; more are a bomb. */
const MAX_PIECES = 65_536;

/** Bytes of a sparse member that are stored: position in its content, and their number. The others are zeros. */
export type SparsePiece = readonly [at: number, length: number];

export interface TarMember {
  readonly path: string;
  /** Position of its stored bytes in the file. */
  readonly offset: number;
  /** Bytes of its content. */
  readonly size: number;
  readonly sparse?: readonly SparsePiece[];
  /** Why it is no regular file whose content can be read. */
  readonly skip?: string;
}

const FILES: ReadonlySet<string> = new Set(["File", "OldFile", "ContiguousFile", "SparseFile"]);
/** Headers about the next member, or about nothing that is stored here. */
const SILENT: ReadonlySet<string> = new Set(["Directory", "NextFileHasLongLinkpath", "TapeVolumeHeader"]);

const blocks = (bytes: number): number => Math.ceil(bytes / BLOCK) * BLOCK;

class TarWalker {
  private readonly file: RandomAccess;
  private readonly modules: { Header: typeof Header; Pax: typeof import("tar/pax").Pax };
  /** Of pax headers: for the next member, and for all. */
  private next: HeaderData | undefined;
  private all: HeaderData | undefined;
  private sparse: ReadonlyMap<string, string> = new Map();

  constructor(file: RandomAccess, modules: TarWalker["modules"]) {
    this.file = file;
    this.modules = modules;
  }

  async *members(signal: AbortSignal | undefined): AsyncGenerator<TarMember> {
    const { file } = this;
    for (let at = 0; ;) {
      signal?.throwIfAborted();
      if (at + BLOCK > file.size) throw this.cutOff(`it ends at byte ${file.size} without the mark of its end`);
      const block = Buffer.from(await file.read(at, BLOCK));
      const header = new this.modules.Header(block, 0, this.next, this.all);
      if (header.nullBlock) return;
      if (!header.cksumValid || header.size === undefined)
        throw new SourceError(`${file.name} is damaged: there is no valid tar header at byte ${at}. Load it again`);
      const [start, size] = [at + BLOCK, header.size];
      if (start + size > file.size)
        throw this.cutOff(`${quote(header.path ?? "")} has ${size} bytes, and ${file.size - start} are there`);
      at = start + blocks(size);
      if (await this.isExtension(header, start, size)) continue;
      yield* this.member(header, block, start, size);
      // Blocks of the map of an old sparse file lie before its content.
      if (header.type === "SparseFile") at += this.mapBlocks;
      this.next = undefined;
      this.sparse = new Map();
    }
  }

  private mapBlocks = 0;

  private cutOff(why: string): SourceError {
    return new SourceError(`${this.file.name} is cut off: ${why}. Load it again`);
  }

  /** Takes a header about the next members. */
  private async isExtension({ type }: Header, start: number, size: number): Promise<boolean> {
    const isPax = type === "ExtendedHeader" || type === "OldExtendedHeader" || type === "GlobalExtendedHeader";
    if (!isPax && type !== "NextFileHasLongPath" && type !== "OldGnuLongPath") return false;
    if (size > MAX_EXTENSION)
      throw new SourceError(`${this.file.name}: a header of ${size} bytes; at most ${MAX_EXTENSION} are read`);
    const text = Buffer.from(await this.file.read(start, size)).toString();
    // The header's own path is cut off then, and a cut that ends with a slash would make it a folder.
    if (!isPax) this.next = { ...this.next, path: text.replace(/\0.*/s, "") };
    else if (type === "GlobalExtendedHeader") this.all = this.modules.Pax.parse(text, this.all, true);
    else {
      this.next = this.modules.Pax.parse(text, this.next);
      this.sparse = new Map([...text.matchAll(/^\d+ GNU\.sparse\.([\w.]+)=(.*)$/gm)].map(([, key, value]) => [key!, value!])); // prettier-ignore
    }
    return true;
  }

  private async *member(header: Header, block: Buffer, offset: number, stored: number): AsyncGenerator<TarMember> {
    const { type } = header;
    const path = this.sparse.get("name") ?? header.path ?? "";
    if (SILENT.has(type)) return;
    if (!FILES.has(type)) return yield { path, offset, size: stored, skip: NO_FILES[type] ?? `of the type ${type}` };
    if (type === "SparseFile") return yield await this.oldSparse(path, block, offset, stored);
    if (this.sparse.size === 0) return yield { path, offset, size: stored };
    if (this.sparse.get("major") !== "1" || this.sparse.get("minor") !== "0")
      return yield { path, offset, size: stored, skip: "a sparse file of an old format; pack it without --sparse" };
    yield await this.paxSparse(path, offset, stored);
  }

  /** GNU's sparse files in pax format 1.0: the map is text before the content. */
  private async paxSparse(path: string, offset: number, stored: number): Promise<TarMember> {
    const numbers: number[] = [];
    let [read, rest] = [0, ""];
    while (numbers.length === 0 || numbers.length < 1 + 2 * numbers[0]!) {
      const end = rest.indexOf("\n");
      if (end >= 0) {
        numbers.push(Number(rest.slice(0, end)));
        rest = rest.slice(end + 1);
        if (numbers[0]! > MAX_PIECES) break;
      } else if (read + BLOCK > stored) break;
      else {
        rest += Buffer.from(await this.file.read(offset + read, BLOCK)).toString("latin1");
        read += BLOCK;
      }
    }
    const pieces = Array.from({ length: Math.floor((numbers.length - 1) / 2) }, (_, i): SparsePiece => [numbers[2 * i + 1]!, numbers[2 * i + 2]!]); // prettier-ignore
    const size = Number(this.sparse.get("realsize") ?? NaN);
    return this.checkedSparse({ path, offset: offset + read, size, sparse: pieces }, stored - read, numbers[0]);
  }

  /** GNU's sparse files of type S: four pieces in the header, more in blocks behind it. */
  private async oldSparse(path: string, header: Buffer, offset: number, stored: number): Promise<TarMember> {
    const pieces: SparsePiece[] = [];
    const take = (block: Buffer, from: number, count: number): void => {
      for (let i = 0; i < count; i++) {
        const field = from + 24 * i;
        if (block[field] === 0) return;
        pieces.push([tarNumber(block, field), tarNumber(block, field + 12)]);
      }
    };
    take(header, 386, 4);
    this.mapBlocks = 0;
    for (let isMore = header[482] !== 0; isMore && pieces.length <= MAX_PIECES;) {
      const block = Buffer.from(await this.file.read(offset + this.mapBlocks, BLOCK));
      take(block, 0, 21);
      this.mapBlocks += BLOCK;
      isMore = block[504] !== 0;
    }
    const size = tarNumber(header, 483);
    return this.checkedSparse({ path, offset: offset + this.mapBlocks, size, sparse: pieces }, stored, pieces.length);
  }

  private checkedSparse(
    member: TarMember & { sparse: readonly SparsePiece[] },
    stored: number,
    count: number | undefined,
  ): TarMember {
    // prettier-ignore
    const { sparse, size } = member;
    let [end, sum] = [0, 0];
    const isInOrder = sparse.every(([at, length]) => {
      const isNext = Number.isSafeInteger(at) && Number.isSafeInteger(length) && at >= end && length >= 0;
      end = at + length;
      sum += length;
      return isNext;
    });
    if (isInOrder && sparse.length === count && end <= size && sum === stored && Number.isSafeInteger(size))
      return member;
    return { ...member, skip: "a sparse file whose map is damaged" };
  }
}

/** Octal digits, or base 256 if the first bit is set, in a field of 12 bytes. */
function tarNumber(block: Buffer, at: number): number {
  if (block[at]! & 0x80) return Number(block.readBigUInt64BE(at + 4));
  return Number.parseInt(
    block
      .toString("latin1", at, at + 12)
      .replace(/\0.*/s, "")
      .trim() || "0",
    8,
  );
}

const NO_FILES: Readonly<Record<string, string>> = {
  Link: "a link, which has no content of its own; pack files with --hard-dereference",
  SymbolicLink: "a link, which has no content; pack files with --dereference",
};

/** Members of a tar file, in order. Throws `SourceError` if it is cut off or damaged. */
export async function* membersOf(file: RandomAccess, signal?: AbortSignal): AsyncGenerator<TarMember> {
  const [{ Header }, { Pax }] = await Promise.all([import("tar/header"), import("tar/pax")]);
  yield* new TarWalker(file, { Header, Pax }).members(signal);
}

/** The content of a member. */
export async function readMember(
  file: RandomAccess,
  member: Pick<TarMember, "offset" | "size" | "sparse">,
): Promise<Uint8Array> {
  // prettier-ignore
  const { offset, size, sparse } = member;
  if (!sparse) return file.read(offset, size);
  const bytes = new Uint8Array(size);
  let stored = offset;
  for (const [at, length] of sparse) {
    bytes.set(await file.read(stored, length), at);
    stored += length;
  }
  return bytes;
}
