/** Ids of texts of any length: long ones by parts, so that the event loop has its turn and what is beyond a limit costs nothing. */
import type { Tokenizer } from "../../model/janus/tokenizer.ts";

/** Texts up to here are encoded at once: about 0.4 s. Measured: 1.4 s for 1 MB, so 8 MB at once would block for 11 s and more. */
export const MAX_WHOLE = 2 ** 18; // characters
const PART = 2 ** 15; // characters; about 50 ms

export interface TextIds {
  /** With the begin-of-sentence token; more than `limit` of them are not all of them. */
  readonly ids: number[];
  readonly isComplete: boolean;
}

/**
 * The ids of `text`; encoding stops once there are more than `limit`. Parts begin at a space between two words, where the tokenizer splits
 * anyway, so they are the ids of the whole text; 16 K characters without such a space are split between two of them.
 */
export async function encodeText(tokenizer: Tokenizer, text: string, limit = Infinity): Promise<TextIds> {
  if (text.length <= MAX_WHOLE || !splitsAtSpaces(tokenizer)) return { ids: tokenizer.encode(text), isComplete: true };
  const ids: number[] = [];
  for (let at = 0; at < text.length;) {
    const end = endOfPart(text, at);
    for (const [i, id] of tokenizer.encode(text.slice(at, end)).entries())
      if (at === 0 || i > 0 || id !== tokenizer.specials.bos) ids.push(id);
    at = end;
    if (ids.length > limit) return { ids, isComplete: at === text.length };
    await new Promise((resolve) => setTimeout(resolve));
  }
  return { ids, isComplete: true };
}

const WORDS = /[\p{L}\p{N}] \p{L}/u;

function endOfPart(text: string, at: number): number {
  if (text.length - at <= PART) return text.length;
  for (let end = at + PART; end > at + PART / 2; end--)
    if (text[end] === " " && WORDS.test(text.slice(end - 1, end + 2))) return end;
  const code = text.charCodeAt(at + PART);
  return at + PART - (code >= 0xdc00 && code <= 0xdfff ? 1 : 0); // not inside a surrogate pair
}

/** Whether words that a space separates are encoded by themselves: true of byte-level tokenizers with a pre-tokenizer, as Janus has. */
function splitsAtSpaces(tokenizer: Tokenizer): boolean {
  const [whole, first, second] = ["one two", "one", " two"].map((text) => tokenizer.encode(text)) as [number[], number[], number[]]; // prettier-ignore
  const rest = second[0] === tokenizer.specials.bos ? second.slice(1) : second;
  return whole.join() === [...first, ...rest].join();
}
