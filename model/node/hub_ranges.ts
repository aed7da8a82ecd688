/** A file on the hub read by ranges: headers of weight files, without the weights. */
import { checkRange } from "../io/bytes.ts";
import type { RandomAccess } from "../io/bytes.ts";
import { quote } from "../io/errors.ts";
import { Retry, eachChunk } from "./hub_http.ts";
import type { Transport } from "./hub_http.ts";
import { HubError, HubIntegrityError } from "./hub_settings.ts";
import type { HubFile } from "./hub_transfer.ts";

/** A file of at most this many bytes is read with one request. */
const SMALL_BYTES = 2 ** 20;
/** Bytes of the request for the head of a file: headers of safetensors have about 100 kB. */
const FIRST_BYTES = 2 ** 18;
/** Least bytes of any other: an archive of torch.save has headers of 100 bytes all over the file. */
const MIN_BYTES = 2 ** 13;

interface Piece {
  readonly start: number;
  readonly bytes: Uint8Array;
}

/** Opens a file of a listing. Pieces that were read stay in memory until it is closed. */
export function openRemote(file: HubFile, transport: Transport): RandomAccess {
  const pieces: Piece[] = [];
  const form = { isOpen: false };
  const pieceOf = async (offset: number, length: number): Promise<Piece> => {
    const known = pieces.find(({ start, bytes }) => start <= offset && offset + length <= start + bytes.length);
    if (known) return known;
    const isSmall = file.bytes <= SMALL_BYTES;
    const isHead = offset + length <= FIRST_BYTES;
    const start = isSmall || isHead ? 0 : offset;
    const least = isSmall ? file.bytes : isHead ? FIRST_BYTES : Math.max(length, MIN_BYTES);
    const end = Math.min(file.bytes, start + least);
    const piece = { start, bytes: await readRange(file, { start, end, form }, transport) };
    pieces.push(piece);
    return piece;
  };
  const opened: RandomAccess = {
    name: file.name,
    size: file.bytes,
    read: async (offset, length, into) => {
      checkRange(opened, offset, length);
      const { start, bytes } = await pieceOf(offset, length);
      const found = bytes.subarray(offset - start, offset - start + length);
      if (!into) return found;
      into.set(found);
      return into.subarray(0, length);
    },
    close: async () => void pieces.splice(0),
  };
  return opened;
}

interface Range {
  readonly start: number;
  readonly end: number;
  /** Whether to ask for all from `start` on, and read no further than `end`: some servers know no other ranges, and fail. */
  readonly form: { isOpen: boolean };
}

/** A part of a file. A server that sends the whole file instead is read as far as that helps. */
async function readRange(file: HubFile, range: Range, transport: Transport): Promise<Uint8Array> {
  return transport.persist(file.name, (progress) =>
    requestRange(file, range, transport, progress).catch((error: unknown) => {
      if (error instanceof Retry) range.form.isOpen = !range.form.isOpen;
      throw error;
    }),
  );
}

function requestRange(
  file: HubFile,
  { start, end, form }: Range,
  transport: Transport,
  progress: () => void,
): Promise<Uint8Array> {
  const isWhole = start === 0 && end === file.bytes;
  const headers: Record<string, string> = isWhole ? {} : { range: `bytes=${start}-${form.isOpen ? "" : end - 1}` };
  const into = new Uint8Array(end - start);
  return transport.request(file.url, { what: file.name, headers }, async (response, alive) => {
    if (response.status === 206) checkContentRange(response.headers.get("content-range") ?? "", file, start);
    else if (start > 0)
      throw new HubError(`${file.name}: the server does not send parts of files; fetch the model, then inspect its folder`); // prettier-ignore
    let done = 0;
    await eachChunk(response, async (chunk) => {
      alive();
      progress();
      const part = chunk.subarray(0, into.length - done);
      into.set(part, done);
      done += part.length;
      return done === into.length ? "enough" : undefined;
    });
    if (done < into.length) throw new Retry(`the connection ended after ${done} of ${into.length} bytes`);
    return into;
  });
}

function checkContentRange(range: string, file: HubFile, start: number): void {
  const [, from, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(range) ?? [];
  if (Number(from) !== start || (total !== "*" && Number(total) !== file.bytes))
    throw new HubIntegrityError(
      `${file.name}: bytes from ${start} of ${file.bytes} were asked for, the server sends ${quote(range)}`,
    );
}
