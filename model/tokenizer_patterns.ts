/**
 * The check of regular expressions in a tokenizer.json. JavaScript's engine backtracks: a pattern from a file can take
 * time that grows with the square of a text or doubles with each letter, and nothing can stop it. So only patterns are
 * run whose form shows that they take linear time; the published byte-level tokenizers (DeepSeek's, GPT-2's, Llama 3's,
 * Qwen's) have no others.
 */

/** An alternative of a pattern, as far as time is concerned. */
interface Form {
  /** True if it can match the empty string. */
  readonly isNullable: boolean;
  /** True if it can match any number of characters. */
  readonly isUnbounded: boolean;
  /** Ways in which its bounded parts can match one text: what backtracking may try. */
  readonly ways: number;
}

/** Alternatives that back off at most once over the run that they took, if a last alternative then takes the rest of it: `\s+`. */
const BACKING_OFF: ReadonlySet<string> = new Set([
  "\\s+(?!\\S)",
  "\\s*[\\r\\n]+",
  "\\s*[\r\n]+",
  "\\s*\\n+",
  "\\s*[\\r\\n]",
]);
const MAX_WAYS = 256;
const MAX_COUNT = 1000;
const MAX_PATTERN = 16_384; // characters
const MAX_DEPTH = 8;

class Unsupported extends Error {}

/** Why a pattern is not run; null if its form shows that it takes linear time. */
export function slowness(pattern: string): string | null {
  if (pattern.length > MAX_PATTERN) return `has ${pattern.length} characters; at most ${MAX_PATTERN} are read`;
  try {
    const reader = new PatternReader(pattern);
    const parts = reader.split();
    const takesRest = parts.at(-1) === "\\s+";
    for (const part of parts) if (!(takesRest && BACKING_OFF.has(part))) new PatternReader(part).whole();
    return null;
  } catch (error) {
    if (error instanceof Unsupported) return error.message;
    throw error;
  }
}

class PatternReader {
  private readonly text: string;
  private at = 0;
  private depth = 0;

  constructor(text: string) {
    this.text = text;
  }

  /** The alternatives at the top, as text. */
  split(): string[] {
    const cuts: number[] = [];
    for (let depth = 0; this.at < this.text.length;) {
      const c = this.text[this.at]!;
      if (c === "\\") this.at++;
      else if (c === "[") this.classAtom();
      else if (c === "(") depth++;
      else if (c === ")") depth--;
      else if (c === "|" && depth === 0) cuts.push(this.at);
      if (c !== "[") this.at++;
    }
    return [...cuts, this.text.length].map((end, i) => this.text.slice(i === 0 ? 0 : cuts[i - 1]! + 1, end));
  }

  whole(): Form {
    const form = this.alternatives();
    if (this.at < this.text.length) throw new Unsupported(`has an unexpected ")"`);
    return form;
  }

  private alternatives(): Form {
    const forms = [this.sequence()];
    while (this.text[this.at] === "|") {
      this.at++;
      forms.push(this.sequence());
    }
    return {
      isNullable: forms.some(({ isNullable }) => isNullable),
      isUnbounded: forms.some(({ isUnbounded }) => isUnbounded),
      ways: forms.reduce((sum, { ways }) => sum + ways, 0),
    };
  }

  private sequence(): Form {
    let [isNullable, isUnbounded, ways] = [true, false, 1];
    while (this.at < this.text.length && this.text[this.at] !== "|" && this.text[this.at] !== ")") {
      const term = this.term();
      // What must follow a run that has no bound can fail, and then every length of the run is tried.
      if (isUnbounded && !term.isNullable) throw new Unsupported("goes back over a run of any length when what follows does not match"); // prettier-ignore
      isNullable &&= term.isNullable;
      isUnbounded ||= term.isUnbounded;
      ways *= term.ways;
      if (ways > MAX_WAYS) throw new Unsupported("can match one text in too many ways");
    }
    return { isNullable, isUnbounded, ways };
  }

  private term(): Form {
    const isGroup = this.text[this.at] === "(";
    const inner = isGroup ? this.group() : this.atom();
    const [least, most] = this.quantifier();
    if (isGroup && (most > 1 || least > 1)) throw new Unsupported("repeats a group");
    return {
      isNullable: inner.isNullable || least === 0,
      isUnbounded: inner.isUnbounded || most === Infinity,
      ways: inner.ways * (most === Infinity ? 1 : most - least + 1),
    };
  }

  private group(): Form {
    const [head] = /^\((\?:|\?[ims]+:|(?!\?))/.exec(this.text.slice(this.at)) ?? [];
    if (head === undefined) throw new Unsupported("looks around or names a group");
    if (++this.depth > MAX_DEPTH) throw new Unsupported(`nests more than ${MAX_DEPTH} groups`);
    this.at += head.length;
    const form = this.alternatives();
    if (this.text[this.at++] !== ")") throw new Unsupported("has a group without an end");
    this.depth--;
    return form;
  }

  /** One character, or a class of characters. */
  private atom(): Form {
    const c = this.text[this.at]!;
    if (c === "[") this.classAtom();
    else if (c === "\\") this.escape();
    else if ("^$*+?{".includes(c))
      throw new Unsupported(`has ${JSON.stringify(c)} in a position that is not supported`);
    else this.at++;
    return { isNullable: false, isUnbounded: false, ways: 1 };
  }

  private escape(): void {
    const [taken] = /^\\(?:[pP]\{\^?[A-Za-z_=]+\}|[pP][A-Z]|x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|u\{[0-9A-Fa-f]+\}|u[0-9A-Fa-f]{4}|[dDsSwWhnrtfv0]|[^A-Za-z0-9])/u.exec(this.text.slice(this.at, this.at + 64)) ?? []; // prettier-ignore
    if (taken === undefined) throw new Unsupported(`has ${JSON.stringify(this.text.slice(this.at, this.at + 2))}, which is not supported`); // prettier-ignore
    this.at += taken.length;
  }

  /** Leaves the position behind the class; classes may hold others. */
  private classAtom(): void {
    let depth = 0;
    do {
      const c = this.text[this.at];
      if (c === undefined) throw new Unsupported("has a class without an end");
      if (c === "\\") this.at++;
      else if (c === "[") depth++;
      else if (c === "]") depth--;
      this.at++;
    } while (depth > 0);
  }

  private quantifier(): [least: number, most: number] {
    const [taken, sign, least, comma, most] =
      /^(?:([?*+])|\{(\d+)(,?)(\d*)\})[?+]?/.exec(this.text.slice(this.at, this.at + 32)) ?? [];
    if (taken === undefined) return [1, 1];
    this.at += taken.length;
    if (sign) return [sign === "+" ? 1 : 0, sign === "?" ? 1 : Infinity];
    const [low, high] = [Number(least), comma ? (most ? Number(most) : Infinity) : Number(least)];
    if (low > MAX_COUNT || (high !== Infinity && high > MAX_COUNT)) throw new Unsupported(`counts to more than ${MAX_COUNT}`); // prettier-ignore
    return [low, high];
  }
}
