/** Structured logs: one JSON object a line, one line a request. Prompts, answers and keys are never in them. */
import { messageOf } from "../engine/errors.ts";

export type Fields = Readonly<Record<string, string | number | boolean | null | undefined>>;

export class Log {
  private readonly write: (line: string) => void;

  /** @param write takes a line without its end */
  constructor(write: (line: string) => void) {
    this.write = write;
  }

  /** An answered request. */
  request(fields: Fields): void {
    this.line("info", "request", fields);
  }

  note(message: string): void {
    this.line("info", message, {});
  }

  /** An error of the server, with its stack. */
  problem(message: string, error: unknown): void {
    this.line("error", message, { error: error instanceof Error ? (error.stack ?? error.message) : messageOf(error) });
  }

  private line(level: string, message: string, fields: Fields): void {
    this.write(JSON.stringify({ time: new Date().toISOString(), level, message, ...fields }));
  }
}
