/**
 * Byte-level BPE the slow way, read from a tokenizer.json's own declarations: characters are classed one by one, splits are walked by hand, and
 * merging looks for the lowest rank again after every merge. Understands the patterns that DeepSeek's tokenizers declare, and no others.
 */

interface Declared {
  added_tokens: { id: number; content: string }[];
  pre_tokenizer: { pretokenizers: { type: string; pattern?: { Regex: string }; individual_digits?: boolean }[] };
  model: { vocab: Record<string, number>; merges: ([string, string] | string)[] };
}

type Test = (character: string) => boolean;

/** White space of Unicode (the property White_Space). */
const isSpace: Test = (c) => /^[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]$/.test(c);

/** `[…]` with ranges and escapes, or `\p{X}`. */
function classOf(source: string): Test {
  if (source.startsWith("\\p{")) {
    const property = new RegExp(`^${source}$`, "u");
    return (c) => property.test(c);
  }
  const points: number[] = [];
  const ranges: [number, number][] = [];
  const characters = Array.from(source.slice(1, -1));
  for (let i = 0; i < characters.length; i++) {
    let c = characters[i]!;
    if (c === "\\") c = characters[++i]!;
    else if (c === "-" && points.length > 0 && i + 1 < characters.length) {
      c = characters[++i]!;
      if (c === "\\") c = characters[++i]!;
      ranges.push([points.pop()!, c.codePointAt(0)!]);
      continue;
    }
    points.push(c.codePointAt(0)!);
  }
  for (const point of points) ranges.push([point, point]);
  return (c) => ranges.some(([from, to]) => c.codePointAt(0)! >= from && c.codePointAt(0)! <= to);
}

/** How long the match is that starts at `i`; 0 for none. */
type Match = (characters: string[], i: number) => number;

function matchOf(regex: string): Match {
  if (regex === "\\s+$") {
    return (characters, i) => {
      let end = i;
      while (end < characters.length && isSpace(characters[end]!)) end++;
      return end === characters.length ? end - i : 0;
    };
  }
  const optionalSpace = regex.startsWith("\\s?");
  const many = regex.endsWith("+");
  const inside = classOf(regex.slice(optionalSpace ? 3 : 0, many ? -1 : undefined));
  const run: Match = (characters, i) => {
    let end = i;
    while (end < characters.length && inside(characters[end]!) && (many || end === i)) end++;
    return end - i;
  };
  return (characters, i) => {
    if (optionalSpace && i < characters.length && isSpace(characters[i]!)) {
      const rest = run(characters, i + 1);
      if (rest > 0) return rest + 1;
    }
    return run(characters, i);
  };
}

function split(text: string, match: Match): string[] {
  const characters = Array.from(text);
  const pieces: string[] = [];
  let before = "";
  for (let i = 0; i < characters.length;) {
    const length = match(characters, i);
    if (length === 0) {
      before += characters[i++]!;
      continue;
    }
    if (before !== "") pieces.push(before);
    before = "";
    pieces.push(characters.slice(i, i + length).join(""));
    i += length;
  }
  if (before !== "") pieces.push(before);
  return pieces;
}

/** GPT-2's table: bytes that print stand for themselves, the other 68 follow from U+0100 on. */
function byteLevel(text: string): string[] {
  const prints = (b: number): boolean => (b > 32 && b < 127) || (b > 160 && b < 173) || b > 173;
  return [...new TextEncoder().encode(text)].map((byte) => {
    if (prints(byte)) return String.fromCodePoint(byte);
    let rank = 0;
    for (let b = 0; b < byte; b++) if (!prints(b)) rank++;
    return String.fromCodePoint(256 + rank);
  });
}

/** `text` → ids, without a begin-of-sentence token. */
export function slowTokenizer(declared: Declared): (text: string) => number[] {
  const ranks = new Map(
    declared.model.merges.map((merge, rank) => [typeof merge === "string" ? merge : merge.join(" "), rank]),
  );
  const splits = declared.pre_tokenizer.pretokenizers.flatMap(({ type, pattern }) => {
    if (type === "Split") return [matchOf(pattern!.Regex)];
    return type === "Digits" ? [matchOf("\\p{N}")] : [];
  });
  const plain = (text: string): number[] => {
    let pieces = [text];
    for (const match of splits) pieces = pieces.flatMap((piece) => split(piece, match));
    return pieces.flatMap((piece) => {
      const word = byteLevel(piece);
      for (;;) {
        let best = Infinity;
        let at = -1;
        for (let i = 0; i + 1 < word.length; i++) {
          const rank = ranks.get(`${word[i]!} ${word[i + 1]!}`) ?? Infinity;
          if (rank < best) [best, at] = [rank, i];
        }
        if (at < 0) return word.map((token) => declared.model.vocab[token]!);
        word.splice(at, 2, word[at]! + word[at + 1]!);
      }
    });
  };
  return (text) => {
    const ids: number[] = [];
    let rest = text;
    while (rest !== "") {
      // The first added token in the text; of several at one place the longest.
      const found = declared.added_tokens
        .map(({ id, content }) => ({ id, content, at: rest.indexOf(content) }))
        .filter(({ at }) => at >= 0)
        .sort((a, b) => a.at - b.at || b.content.length - a.content.length)[0];
      const before = found ? rest.slice(0, found.at) : rest;
      if (before !== "") ids.push(...plain(before));
      if (found) ids.push(found.id);
      rest = found ? rest.slice(found.at + found.content.length) : "";
    }
    return ids;
  };
}
