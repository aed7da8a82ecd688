/** String functions that behave as Python's, in which the official scorers are written. JavaScript's differ in white space, length and rounding. */

/** What Python's `str.isspace`, `split()` and the `\s` of its regular expressions take; JavaScript's `\s` lacks U+001C to U+001F and U+0085, and takes U+FEFF. */
export const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const SPACES = new RegExp(`${SPACE}+`, "u");
const isSpace = new RegExp(`^${SPACE}$`, "u");

/** `text.split()` */
export const words = (text: string): string[] => text.split(SPACES).filter((word) => word !== "");

/** `text.strip(characters)`; without them white space. */
export function strip(text: string, characters?: string): string {
  const isCut = (c: string): boolean => (characters === undefined ? isSpace.test(c) : characters.includes(c));
  let [from, to] = [0, text.length];
  while (from < to && isCut(text[from]!)) from++;
  while (to > from && isCut(text[to - 1]!)) to--;
  return text.slice(from, to);
}

/** `len(text)`: code points. */
export function length(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** Value of a decimal digit of any script: they come in runs of ten that begin at …0 or …6, but for the mathematical ones. */
function digit(character: string): string {
  const code = character.codePointAt(0)!;
  if (code >= 0x1d7ce && code <= 0x1d7ff) return String((code - 0x1d7ce) % 10);
  const low = code & 0xf;
  return String(/\p{Nd}/u.test(String.fromCodePoint(code - low)) ? low : low - 6);
}

/** `float(text)`, null if it raises ValueError. Takes "nan", "inf", "1_000", digits of any script and white space around, as Python does. */
export function float(text: string): number | null {
  const t = strip(text).replace(/\p{Nd}/gu, digit);
  const special = /^([+-]?)(nan|inf|infinity)$/i.exec(t);
  if (special) return special[2]!.toLowerCase() === "nan" ? NaN : special[1] === "-" ? -Infinity : Infinity;
  if (!/^[+-]?(\d+(_\d+)*\.?(\d+(_\d+)*)?|\.\d+(_\d+)*)(e[+-]?\d+(_\d+)*)?$/i.test(t)) return null;
  return Number(t.replaceAll("_", ""));
}

/** `round(value, 2)`: the nearest multiple of 0.01 of the exact value, ties to even. */
export function round2(value: number): number {
  if (!Number.isFinite(value) || Math.abs(value) >= 1e20) return value;
  // A double is a tie only if it is an odd multiple of 1/8 with respect to hundredths: n + k/8 with k odd.
  const isTie = Number.isInteger(value * 8) && Math.abs(value * 8) % 2 === 1;
  if (!isTie) return Number(value.toFixed(2));
  const down = Math.floor(Math.abs(value) * 100); // exact: 100 · k/8 = 12.5 k
  const even = down % 2 === 0 ? down : down + 1;
  return (Math.sign(value) * even) / 100;
}
