/** A file on the hub read by ranges: headers of weight files, without the weights. */
import type { RandomAccess } from "../io/bytes.ts";
import { Retry, checkContentRange, firstBytes, openPieces } from "../io/hub_body.ts";
import type { Transport } from "./hub_http.ts";
import { HubError } from "./hub_settings.ts";
import type { HubFile } from "./hub_transfer.ts";

/** Opens a file of a listing. Pieces that were read stay in memory until it is closed. */
export function openRemote(file: HubFile, transport: Transport): RandomAccess {
  const form = { isOpen: false };
  return openPieces(file, (start, end) => readRange(file, { start, end, form }, transport));
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
  return transport.request(file.url, { what: file.name, headers }, async (response, alive) => {
    if (response.status === 206) checkContentRange(response, file, start);
    else if (start > 0)
      throw new HubError(`${file.name}: the server does not send parts of files; fetch the model, then inspect its folder`); // prettier-ignore
    return firstBytes(response, end - start, () => {
      alive();
      progress();
    });
  });
}
