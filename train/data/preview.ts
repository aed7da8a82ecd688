/** A sample as a person reads it: what the model is given, and which of it is trained. */
import type { Tokenizer } from "../../model/janus/tokenizer.ts";
import { IGNORE } from "../samples.ts";
import type { Sample } from "../samples.ts";

export interface Piece {
  readonly text: string;
  readonly isTrained: boolean;
  /** Beyond the length of a row: the model never sees it. */
  readonly isCut?: boolean;
}

/** Runs of a special token from here on are written as `token×length`. */
const LONG_RUN = 3;
const CODES_SHOWN = 12;

/**
 * The sample in pieces, in order; special tokens are shown, long runs of one (images, dropped prompts) and codes are shortened.
 * @param cut tokens that fit (default: all)
 */
export function samplePieces(sample: Sample, tokenizer: Tokenizer, cut = Infinity): Piece[] {
  const pieces: Piece[] = [];
  const add = (text: string, isTrained: boolean, isCut = false): void => {
    const last = pieces.at(-1);
    const piece = { isTrained, ...(isCut && { isCut }) };
    if (last?.isTrained === isTrained && (last.isCut ?? false) === isCut)
      pieces[pieces.length - 1] = { text: last.text + text, ...piece };
    else pieces.push({ text, ...piece });
  };
  const isTrained = (i: number): boolean => i > 0 && sample.textTargets[i - 1] !== IGNORE;
  const specials = new Set<number | undefined>(Object.values(tokenizer.specials) as (number | undefined)[]);
  const firstCode = sample.codes.findIndex((code) => code >= 0);
  const end = sample.task !== "gen" || firstCode < 0 ? sample.ids.length : firstCode;
  for (let i = 0; i < end;) {
    const id = sample.ids[i]!;
    let next = i + 1;
    const stop = i < cut ? Math.min(end, cut) : end;
    if (specials.has(id)) while (next < stop && sample.ids[next] === id && isTrained(next) === isTrained(i)) next++;
    else while (next < stop && !specials.has(sample.ids[next]) && isTrained(next) === isTrained(i)) next++;
    const run = sample.ids.subarray(i, next);
    const text =
      specials.has(id) && run.length >= LONG_RUN
        ? `${tokenizer.tokenOf(id)}×${run.length}`
        : tokenizer.decode(run, { skipSpecials: false });
    add(text, isTrained(i), i >= cut);
    i = next;
  }
  const codes = sample.codeTargets.filter((code) => code !== IGNORE);
  if (codes.length) {
    const rest = codes.length > CODES_SHOWN ? " …" : "";
    add(`${codes.length} codes: ${[...codes.subarray(0, CODES_SHOWN)].join(" ")}${rest}`, true);
  }
  return pieces;
}
