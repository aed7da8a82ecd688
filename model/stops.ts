/** Stop strings in a text that comes in pieces: what may be the beginning of one is held back until it is clear. */
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
    const at = Math.min(...this.strings.map((s) => text.indexOf(s)).map((i) => (i < 0 ? Infinity : i)));
    if (at !== Infinity) {
      this.stopped = true;
      this.held = "";
      return text.slice(0, at);
    }
    const longest = Math.max(0, ...this.strings.map((s) => s.length - 1));
    let keep = Math.min(longest, text.length);
    while (keep > 0 && !this.strings.some((s) => s.startsWith(text.slice(text.length - keep)))) keep--;
    this.held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }

  /** What was held back, once nothing follows. */
  flush(): string {
    const text = this.held;
    this.held = "";
    return text;
  }
}
