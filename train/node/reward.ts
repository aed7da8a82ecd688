/**
 * A program that rewards images, as a command: it runs as long as training does, gets a JSON line `{"index", "of", "prompt", "png"}` for each image on its
 * standard input (`png` in base64), and prints a line with one number for each, in their order. Its standard error is shown.
 */
import { spawn } from "node:child_process";
import type { ChildProcessWithoutNullStreams } from "node:child_process";
import { createInterface } from "node:readline";
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

/** A command that rewards images. It runs as long as training does: a JSON line in for each image, a line with a number out. */
export class RewardProgram {
  private readonly command: string;
  private readonly timeout: number;
  private readonly child: ChildProcessWithoutNullStreams;
  private readonly lines: string[] = [];
  private errors = "";
  private end: string | null = null;
  /** Looks at what has come. */
  private wake: () => void = () => undefined;

  constructor(command: string, { timeout }: RewardProgramOptions) {
    this.command = command;
    this.timeout = timeout;
    this.child = spawn(command, { shell: true, stdio: "pipe", detached: process.platform !== "win32" });
    createInterface(this.child.stdout).on("line", (line) => {
      if (line.trim() !== "") this.lines.push(line.trim());
      this.wake();
    });
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
    this.child.on("close", (code, signal) => ended(`it ended with ${signal ?? `code ${code}`}`));
  }

  /** The rewards of images, in their order. Throws `RewardError` if the program ends, takes too long, or prints something else than a number for each. */
  async rewards(images: readonly RewardRequest[]): Promise<number[]> {
    if (this.lines.length > 0) throw this.error("print one line for each image", `${this.lines.length} more`);
    for (const [index, { prompt, image }] of images.entries()) {
      const png = Buffer.from(await encodePng(image)).toString("base64");
      this.child.stdin.write(`${JSON.stringify({ index, of: images.length, prompt, png })}\n`);
    }
    await this.arrival(images.length);
    if (this.lines.length > images.length)
      throw this.error("print one line for each image", `${this.lines.length} lines for ${images.length}`);
    return this.lines.splice(0).map((line) => {
      const value = Number(line);
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
    if (this.end !== null) return;
    const closed = new Promise<void>((resolve) => this.child.once("close", () => resolve()));
    this.child.stdin.end();
    const timer = setTimeout(() => {
      const { pid } = this.child;
      if (pid === undefined) return;
      try {
        process.kill(process.platform === "win32" ? pid : -pid, "SIGKILL"); // the shell's children too
      } catch {
        this.child.kill("SIGKILL"); // it has ended meanwhile
      }
    }, GRACE);
    await closed;
    clearTimeout(timer);
  }
}
