/** Small files of a model's folder, read whole. What people often have in place of a file is named: a pointer of Git LFS, a web page, UTF-16. */
import type { FileSource } from "./bytes.ts";
import { readWhole } from "./bytes.ts";
import { CheckpointError } from "./errors.ts";

/** Bytes from the start of a file that `notContent` needs. */
export const HEAD_BYTES = 64;

/** What stands at the start of a file in place of its content; null if nothing speaks against it. */
export function notContent(bytes: Uint8Array): string | null {
  const text = String.fromCharCode(...bytes.subarray(0, HEAD_BYTES));
  if (/^version https:\/\/(git-lfs|hawser)\.github\.com\//.test(text))
    return 'is a pointer of Git LFS, not the file itself; run "git lfs pull" in its folder';
  if (/^(\xef\xbb\xbf)?\s*<(!doctype|html)/i.test(text)) return "is a web page, not the file itself; load it again";
  if (text.startsWith("\xff\xfe") || text.startsWith("\xfe\xff")) return "is text in UTF-16; save it as UTF-8";
  return null;
}

/** Throws `CheckpointError` if a file starts as one that holds something else. `name` names it. */
export function requireContent(bytes: Uint8Array, name: string): void {
  const problem = notContent(bytes);
  if (problem) throw new CheckpointError(`${name} ${problem}`);
}

/** Text without a byte order mark, which RFC 8259 lets readers of JSON ignore. */
export const withoutMark = (bytes: Uint8Array): Uint8Array =>
  bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes;

/** The whole of a text file without its byte order mark. Throws `CheckpointError` if it is longer than `limit` bytes or no such file. */
export async function readTextFile(source: FileSource, name: string, limit: number): Promise<Uint8Array> {
  const file = await source.open(name);
  try {
    const bytes = await readWhole(file, limit);
    requireContent(bytes, file.name);
    return withoutMark(bytes);
  } finally {
    await file.close?.();
  }
}
