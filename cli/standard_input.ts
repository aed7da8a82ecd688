/** Standard input as people pipe it in: text in UTF-8, of bounded size. Anything else is refused by what it is. */
import { fstatSync } from "node:fs";
import { addAbortSignal } from "node:stream";
import { PromptError } from "../model/request.ts";
import { HEAD_BYTES, requireContent, withoutMark } from "../model/io/small_file.ts";
import { FileError, fileError } from "../model/node/files.ts";
import type { Context } from "./context.ts";

export const STANDARD_INPUT = "standard input";
const MAX_LINE = 2 ** 20; // characters

/** Throws `FileError` if standard input is a folder (`janus chat < photos`): Node takes it for an empty file. */
export function requireInput({ stdin }: Pick<Context, "stdin">): void {
  if (stdin === process.stdin && fstatSync(0).isDirectory())
    throw new FileError(`${STANDARD_INPUT} is a folder, not a file; pipe text in`, "EISDIR");
}

/** Pieces of standard input, until a signal comes. Throws `FileError` if it cannot be read. */
export async function* inputBytes({ stdin, signal }: Pick<Context, "stdin" | "signal">): AsyncGenerator<Uint8Array> {
  requireInput({ stdin });
  try {
    for await (const chunk of addAbortSignal(signal, stdin) as AsyncIterable<Uint8Array>) yield chunk;
  } catch (error) {
    signal.throwIfAborted();
    throw fileError(error, STANDARD_INPUT);
  }
}

/** `bytes` as text. Throws `PromptError` for what is no text in UTF-8, `CheckpointError` for what is known to be another file. */
export function decodeText(
  bytes: Uint8Array,
  name: string,
  decoder = new TextDecoder("utf-8", { fatal: true }),
  isLast = true,
): string {
  try {
    const text = decoder.decode(bytes, { stream: !isLast });
    if (!text.includes("\0")) return text;
  } catch {
    // refused below
  }
  throw new PromptError(`${name}: text in UTF-8 is required; got other bytes. Save the text as UTF-8`);
}

/** Lines of standard input as they come. Throws `PromptError` for bytes that are no text, and for a line that does not end. */
export async function* inputLines(context: Pick<Context, "stdin" | "signal">): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let rest = "";
  let isFirst = true;
  const split = (text: string): string[] => {
    const lines = text.split(/\r\n|\n/);
    rest = lines.pop()!;
    if (rest.length > MAX_LINE)
      throw new PromptError(`${STANDARD_INPUT}: a line must have at most ${MAX_LINE} characters; got more. Split it`);
    return lines;
  };
  for await (const chunk of inputBytes(context)) {
    if (isFirst) requireContent(chunk.subarray(0, HEAD_BYTES), STANDARD_INPUT);
    yield* split(rest + decodeText(isFirst ? withoutMark(chunk) : chunk, STANDARD_INPUT, decoder, false));
    isFirst = false;
  }
  const last = rest + decodeText(new Uint8Array(), STANDARD_INPUT, decoder);
  if (last) yield last;
}
