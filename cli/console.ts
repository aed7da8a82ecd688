/**
 * Everything that prints. Results go to stdout: for people as text, with `--json` exactly one JSON object. Notes, errors and progress
 * go to stderr; bars and colours only if that is a terminal (and NO_COLOR is not set).
 */
import type { WriteStream } from "node:tty";
import pc from "picocolors";
import type { SingleBar } from "cli-progress";
import { formatBytes, formatCount, formatDuration, formatShare } from "./format.ts";
import { loadPackage } from "./packages.ts";

export type Stream = NodeJS.WritableStream & Partial<Pick<WriteStream, "isTTY" | "columns">>;
type Colours = ReturnType<typeof pc.createColors>;

export interface OutputOptions {
  readonly stdout?: Stream;
  readonly stderr?: Stream;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly json?: boolean;
  /** Called once when stdout takes no more: its reader has gone (EPIPE), or its disk is full. */
  readonly onBroken?: (error: Error) => void;
}

/** Progress display of a long run. */
export interface ProgressState {
  readonly done: number;
  /** 0 if it is not known. */
  readonly total: number;
  /** The current activity, or its subject. */
  readonly label: string;
}

export interface Progress extends Disposable {
  report(state: ProgressState): void;
  /** Takes the bar away. Calling it twice is allowed. */
  stop(): void;
}

/** Without a terminal a long run says how far it is this often. */
const PLAIN_MS = 30_000;

/** Escape sequences out of file names and the like must not reach the terminal. */
// oxlint-disable-next-line no-control-regex
const printable = (text: string): string => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");

export class Output {
  /** Whether stdout takes one JSON object instead of text. */
  json: boolean;
  /** For stderr. */
  readonly colours: Colours;
  /** For results on stdout: needs a terminal on both. */
  readonly resultColours: Colours;
  /** Why stdout takes no more. */
  broken: Error | null = null;
  private readonly stdout: Stream;
  private readonly stderr: Stream;
  private bar: Bar | null = null;
  private hasResult = false;
  /** Name of this process, if another one prints for both. */
  private follower: string | null = null;

  constructor(options: OutputOptions = {}) {
    const { stdout = process.stdout, stderr = process.stderr, env = process.env } = options;
    this.stdout = stdout;
    this.stderr = stderr;
    this.json = options.json ?? false;
    const isColourful = this.isTerminal && !env["NO_COLOR"] && env["TERM"] !== "dumb";
    this.colours = pc.createColors(isColourful);
    this.resultColours = pc.createColors(isColourful && stdout.isTTY === true);
    stdout.on("error", (error: Error) => {
      if (this.broken) return;
      this.broken = error;
      options.onBroken?.(error);
    });
    stderr.on("error", () => undefined); // nobody reads the message
  }

  /** Prints nothing but errors from here on, with `name` before them: another process of the same run prints the rest. */
  follow(name: string): void {
    this.follower = name;
  }

  /** Whether notes and bars go to a terminal. */
  get isTerminal(): boolean {
    return this.stderr.isTTY === true && this.follower === null;
  }

  /** Text of the result, written as it comes; nothing with `--json`. */
  text(text: string): void {
    if (this.json || this.broken || this.follower !== null) return;
    // A model's words and a folder's name must not reach the terminal as commands; a pipe gets what there is.
    this.around(this.stdout, this.stdout.isTTY ? printable(text) : text);
  }

  /** The result: `json` with `--json`, else `human` as lines. A command calls it once, at its end. */
  result(json: object, human?: string | (() => string)): void {
    if (this.hasResult) throw new Error("a command gave two results; it may give one");
    this.hasResult = true;
    if (this.broken || this.follower !== null) return;
    if (this.json) {
      this.stdout.write(`${JSON.stringify(json, null, 2)}\n`);
    } else if (human !== undefined) {
      const text = typeof human === "string" ? human : human();
      this.text(text.endsWith("\n") ? text : `${text}\n`);
    }
  }

  /** Prints a line to stderr, e.g. the reason for a wait. */
  note(text: string): void {
    if (this.follower === null) this.line(printable(text));
  }

  warn(text: string): void {
    if (this.follower === null) this.line(`${this.colours.yellow("warning:")} ${printable(text)}`);
  }

  error(text: string): void {
    const who = this.follower === null ? "" : `${this.follower}: `;
    this.line(`${this.colours.red("error:")} ${printable(who + text)}`);
  }

  /** Prints an error as the JSON result, if there was no result yet. */
  errorResult(error: { readonly name: string; readonly message: string; readonly exitCode: number }): void {
    if (this.json && !this.hasResult) this.result({ error });
  }

  /**
   * A bar on a terminal; elsewhere a line now and then. `unit` "bytes" shows sizes, any other word counts (`tokens`).
   * `using progress = out.progress("bytes")` removes it at the end of the block, even if the block throws.
   */
  progress(unit: string): Progress {
    this.bar?.stop();
    const bar = new Bar(unit, this.isTerminal ? this.stderr : null, (line) => this.note(line));
    this.bar = bar;
    return bar;
  }

  /** Restores the terminal. */
  close(): void {
    this.bar?.stop();
    this.bar = null;
  }

  /** Waits until all has left the process; never fails, see `broken`. */
  async flush(): Promise<void> {
    const drain = (stream: Stream): Promise<void> => new Promise((resolve) => stream.write("", () => resolve()));
    if (!this.broken) await drain(this.stdout);
    await drain(this.stderr);
  }

  private line(text: string): void {
    this.around(this.stderr, `${text}\n`);
  }

  /** Writes with the bar out of the way, if both are on one terminal. */
  private around(stream: Stream, text: string): void {
    if (stream.isTTY) this.bar?.hide();
    stream.write(text);
    if (stream.isTTY) this.bar?.show();
  }
}

class Bar implements Progress {
  private readonly unit: string;
  private readonly stream: Stream | null;
  private readonly say: (line: string) => void;
  private readonly started = Date.now();
  private said = Date.now();
  /** Bytes of the first report: a resumed download does not begin at 0. */
  private first: number | null = null;
  private state: ProgressState | null = null;
  private bar: SingleBar | null = null;
  private isStopped = false;

  constructor(unit: string, stream: Stream | null, say: (line: string) => void) {
    this.unit = unit;
    this.stream = stream;
    this.say = say;
  }

  report(state: ProgressState): void {
    if (this.isStopped) return;
    this.first ??= state.done;
    this.state = state;
    if (!this.stream) {
      if (Date.now() - this.said < PLAIN_MS) return;
      this.said = Date.now();
      this.say(`${state.label}: ${this.amount()}`);
      return;
    }
    if (!this.bar) this.show();
    this.bar!.setTotal(state.total);
    this.bar!.update(state.done);
  }

  stop(): void {
    this.isStopped = true;
    this.hide();
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  hide(): void {
    this.bar?.stop();
    this.bar = null;
  }

  show(): void {
    if (this.isStopped || !this.stream || !this.state || this.bar) return;
    const cliProgress = loadPackage("cli-progress") as typeof import("cli-progress");
    this.bar = new cliProgress.SingleBar({
      stream: this.stream,
      clearOnComplete: true,
      hideCursor: true,
      barsize: 24,
      format: (options, { progress }) => {
        const { total, label } = this.state!;
        return total > 0
          ? `${printable(label)} ${cliProgress.Format.BarFormat(progress, options)} ${this.amount()}${this.remaining()}`
          : `${printable(label)} ${this.amount()}`;
      },
    });
    this.bar.start(this.state.total, this.state.done);
  }

  /** `1.20 GB of 4.18 GB (28.7 %)`, `12 of 576 tokens (2.1 %)` */
  private amount(): string {
    const { done, total } = this.state!;
    const isBytes = this.unit === "bytes";
    const show = isBytes ? formatBytes : formatCount;
    const unit = isBytes ? "" : ` ${this.unit}`;
    return total > 0 ? `${show(done)} of ${show(total)}${unit} (${formatShare(done, total)})` : `${show(done)}${unit}`;
  }

  private remaining(): string {
    const { done, total } = this.state!;
    const elapsed = Date.now() - this.started;
    const moved = done - this.first!;
    if (elapsed < 1000 || moved <= 0 || done >= total) return "";
    return `, ${formatDuration((elapsed * (total - done)) / moved)} left`;
  }
}
