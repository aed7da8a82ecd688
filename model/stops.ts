/**
 * Stop strings in a streamed text: a possible beginning of one is held back until it is decided. The text ends before
 * the stop string that is the first to be complete, however the text is cut into pieces.
 */
import { ArgumentError } from "../engine/errors.ts";

export class Stops {
  /** A stop string has come; it and what followed are left out. */
  stopped = false;
  private readonly strings: readonly string[];
  private held = "";

  constructor(strings: readonly string[]) {
    if (strings.includes(""))
      throw new ArgumentError("stop: an empty string would end every answer at once; leave it out");
    this.strings = strings;
  }

  /** Takes a piece; returns the text that no stop string can begin in any more. */
  push(piece: string): string {
    if (this.stopped) return "";
    const text = this.held + piece;
    let [start, end] = [Infinity, Infinity];
    for (const s of this.strings) {
      const at = text.indexOf(s);
      if (at < 0 || at + s.length > end || (at + s.length === end && at > start)) continue;
      [start, end] = [at, at + s.length];
    }
    if (end !== Infinity) {
      this.stopped = true;
      this.held = "";
      return text.slice(0, start);
    }
    const longest = Math.max(0, ...this.strings.map((s) => s.length - 1));
    let keep = Math.min(longest, text.length);
    while (keep > 0 && !this.strings.some((s) => s.startsWith(text.slice(text.length - keep)))) keep--;
    this.held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }

  /** Returns the text that was held back, at the end of the stream. */
  flush(): string {
    const text = this.held;
    this.held = "";
    return text;
  }
}
