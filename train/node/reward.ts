/**
 * A program that rewards images, as a command: it runs as long as training does, gets a JSON line `{"index", "of", "prompt", "png"}` for each image on its
 * standard input (`png` in base64), and prints a line with one number for each, in their order. Its standard error is shown.
 */
import { spawn } from "node:child_process";
import type { ChildProcessWithoutNullStreams } from "node:child_process";
import { encodePng } from "../../model/node/image_file.ts";
import { RewardError } from "../policy.ts";
import type { RewardRequest } from "../policy.ts";

export interface RewardProgramOptions {
  /** Seconds for the images of a step. */
  readonly timeout: number;
}

/** Time for the program to end by itself when its input has, before it is ended. */
const GRACE = 2000; // ms
const SHOWN = 400; // characters of its errors in messages
const MAX_LINE = 1000; // characters; a number has 25
const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;

/** A command that rewards images. It runs as long as training does: a JSON line in for each image, a line with a number out. */
export class RewardProgram {
  private readonly command: string;
  private readonly timeout: number;
  private readonly child: ChildProcessWithoutNullStreams;
  private readonly lines: string[] = [];
  /** The line that has not ended. */
  private partial = "";
  /** Lines that may come before the next request. */
  private due = 0;
  private errors = "";
  private end: string | null = null;
  /** Looks at what has come. */
  private wake: () => void = () => undefined;

  constructor(command: string, { timeout }: RewardProgramOptions) {
    this.command = command;
    this.timeout = timeout;
    this.child = spawn(command, { shell: true, stdio: "pipe", detached: process.platform !== "win32" });
    this.child.stdout.setEncoding("utf8");
    this.child.stdout.on("data", (text: string) => this.take(text));
    this.child.stderr.on("data", (chunk: Buffer) => {
      this.errors = (this.errors + chunk.toString()).slice(-SHOWN);
      process.stderr.write(chunk);
    });
    this.child.stdin.on("error", () => undefined); // it has ended, which is said below
    const ended = (how: string): void => {
      this.end ??= how;
      this.wake();
    };
    this.child.on("error", ({ message }) => ended(message));
    const how = (code: number | null, signal: string | null): string => `it ended with ${signal ?? `code ${code}`}`;
    this.child.on("close", (code, signal) => ended(how(code, signal)));
    // What it has started may keep its output open after its end.
    this.child.on("exit", (code, signal) => setTimeout(() => ended(how(code, signal)), GRACE).unref());
  }

  /** Takes output. With more than was asked for, the rest is not read: the program has to wait, and memory stays small. */
  private take(text: string): void {
    const parts = (this.partial + text).split(/\r?\n/);
    this.partial = parts.pop()!;
    for (const line of [...parts, ...(this.partial.length > MAX_LINE ? [this.partial] : [])])
      if (line.trim() !== "") this.lines.push(line.trim().slice(0, MAX_LINE));
    if (this.partial.length > MAX_LINE) this.partial = "";
    if (this.lines.length > this.due) this.child.stdout.pause();
    this.wake();
  }

  /** The rewards of images, in their order. Throws `RewardError` if the program ends, takes too long, or prints something else than a number for each. */
  async rewards(images: readonly RewardRequest[]): Promise<number[]> {
    if (this.lines.length > 0) throw this.error("print one line for each image", `${this.lines.length} more`);
    this.due = images.length;
    for (const [index, { prompt, image }] of images.entries()) {
      const png = Buffer.from(await encodePng(image)).toString("base64");
      this.child.stdin.write(`${JSON.stringify({ index, of: images.length, prompt, png })}\n`);
    }
    await this.arrival(images.length);
    if (this.lines.length > images.length)
      throw this.error("print one line for each image", `${this.lines.length} lines for ${images.length}`);
    this.due = 0;
    return this.lines.splice(0).map((line) => {
      const value = NUMBER.test(line) ? Number(line) : NaN;
      if (!Number.isFinite(value))
        throw this.error("print a finite number for each image", JSON.stringify(line.slice(0, 80)));
      return value;
    });
  }

  private async arrival(count: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        this.wake = () => {
          if (this.lines.length >= count) resolve();
          else if (this.end !== null)
            reject(this.error(`print ${count} numbers`, `${this.lines.length}, then ${this.end}`));
        };
        const late = (): void =>
          reject(this.error(`print ${count} numbers within ${this.timeout} s while its input stays open`, `${this.lines.length}`)); // prettier-ignore
        timer = setTimeout(late, this.timeout * 1000);
        this.wake();
      });
    } finally {
      clearTimeout(timer);
      this.wake = () => undefined;
    }
  }

  private error(required: string, got: string): RewardError {
    const said = this.errors.trim() === "" ? "" : ` It said: ${this.errors.trim()}`;
    return new RewardError(`grpo.reward: the command must ${required}; got ${got}. Correct ${JSON.stringify(this.command)}, or grpo.timeout.${said}`); // prettier-ignore
  }

  /** Ends the program: by the end of its input, or else by a signal to it and what it started. */
  async close(): Promise<void> {
    if (this.end !== null) return this.release();
    const closed = new Promise<void>((resolve) => this.child.once("close", () => resolve()));
    this.child.stdin.end();
    const timer = setTimeout(() => {
      const { pid } = this.child;
      try {
        if (pid !== undefined) process.kill(process.platform === "win32" ? pid : -pid, "SIGKILL"); // the shell's children too
      } catch {
        this.child.kill("SIGKILL"); // it has ended meanwhile
      }
      this.release();
    }, GRACE);
    await closed;
    clearTimeout(timer);
  }

  /** Closes the pipes, which a program that has left the group may keep open. */
  private release(): void {
    for (const pipe of [this.child.stdin, this.child.stdout, this.child.stderr]) pipe.destroy();
  }
}
