/**
 * The end of a command: exit codes, the exit code of each error, and its message. Errors that the package throws on
 * purpose are one message; anything else is a mistake in the package and comes with its stack.
 */
import type { CommanderError } from "commander";
import { JanusError, messageOf } from "../engine/errors.ts";
import type { Output } from "./console.ts";
import { table } from "./format.ts";

export const EXIT = {
  done: 0,
  checkFailed: 1,
  usage: 2,
  input: 3,
  hub: 4,
  device: 5,
  notFinite: 6,
  bug: 70,
  hangUp: 129,
  interrupted: 130,
  wentAway: 138,
  terminated: 143,
} as const;

/** Exit codes with their meanings, in the order of `janus --help`. */
export const exitCodeMeanings: readonly (readonly [number, string])[] = [
  [EXIT.done, "done"],
  [EXIT.checkFailed, "a check failed, or training cannot continue"],
  [EXIT.usage, "wrong usage: an unknown command, option or value"],
  [EXIT.input, "bad input: a checkpoint, config, image, prompt or file"],
  [EXIT.hub, "the hub or the network"],
  [EXIT.device, "the device: no adapter, out of memory, lost"],
  [
    EXIT.notFinite,
    "the model computes values that are not finite (NaN or infinity): damaged weights, or a dtype too narrow",
  ],
  [EXIT.bug, "a bug in janus"],
  [
    EXIT.interrupted,
    `interrupted by Ctrl-C (${EXIT.terminated} by SIGTERM, ${EXIT.wentAway} by SIGUSR1, ${EXIT.hangUp} if the terminal closes)`,
  ],
];

export const exitCodeTable = (): string =>
  `Exit codes:\n${table(exitCodeMeanings.map(([code, meaning]) => [`  ${code}`, meaning]))}\n`;

/** A command line that asks for what there is not. For what commander cannot see by itself (options that exclude each other). */
export class UsageError extends JanusError {}

/** The run was asked to stop: the reason of the signal that commands get. */
export class Interrupted extends JanusError {
  readonly exitCode: number;
  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** An error of the file system that came through unchanged. */
const isFileSystemError = (error: unknown): error is NodeJS.ErrnoException & { path: string } =>
  error instanceof Error && "errno" in error && "syscall" in error && "path" in error && typeof error.path === "string";

/** Formats an error for the user; errors of the file system get messages of this package. */
async function translated(error: unknown): Promise<unknown> {
  if (!isFileSystemError(error)) return error;
  const { fileError } = await import("../model/node/files.ts");
  return fileError(error, error.path);
}

/** The exit code that an error means. Loads the classes it asks about: by then speed no longer matters. */
export async function exitCodeOf(error: unknown): Promise<number> {
  if (error instanceof Interrupted) return error.exitCode;
  if (!(error instanceof JanusError)) return EXIT.bug;
  const engine = await import("../engine/errors.ts");
  const io = await import("../model/io/errors.ts");
  const hub = await import("../model/node/hub_settings.ts");
  const image = await import("../model/image/image.ts");
  const { PackageError } = await import("../model/node/image_file.ts");
  const prompt = await import("../model/request.ts");
  const modules = await import("../model/nn/module.ts");
  const data = await import("../train/data/errors.ts");
  const config = await import("../train/config.ts");
  const { TrainingError } = await import("../train/skips.ts");
  const { RankError } = await import("../train/rank_group.ts");
  const { RewardError } = await import("../train/policy.ts");
  const { SaveError } = await import("../train/node/run/errors.ts");
  const codes: readonly [readonly (abstract new (...args: never[]) => Error)[], number][] = [
    [[TrainingError, RewardError, RankError, SaveError], EXIT.checkFailed], // SaveError before its base, IoError
    [[UsageError, engine.ArgumentError, config.TrainConfigError], EXIT.usage],
    [[hub.HubError], EXIT.hub], // before its base, IoError
    [
      [io.IoError, image.ImageError, PackageError, prompt.PromptError, modules.StateDictError, data.DataError],
      EXIT.input,
    ],
    [[engine.NotFiniteError], EXIT.notFinite],
    [[engine.DeviceError, engine.DeviceLostError, engine.OutOfMemoryError, engine.KernelError], EXIT.device],
  ];
  // The other errors (shapes, dtypes, the tape, captures) cannot be caused by a command line.
  return codes.find(([classes]) => classes.some((kind) => error instanceof kind))?.[1] ?? EXIT.bug;
}

/**
 * Prints on stderr what went wrong (and as JSON on stdout, if asked for) and returns the exit code.
 * `signal` is the one that commands got: errors that only follow from its abortion are shown as that.
 */
export async function reportError(thrown: unknown, out: Output, signal: AbortSignal): Promise<number> {
  const isConsequence = signal.aborted && thrown instanceof Error && thrown.name === "AbortError";
  const error = await translated(isConsequence ? signal.reason : thrown);
  const exitCode = await exitCodeOf(error);
  const name = error instanceof Error ? error.name : "Error";
  const message = messageOf(error);
  if (exitCode === EXIT.bug) {
    out.error(error instanceof Error ? (error.stack ?? message) : message);
    out.note("This is a mistake in janus-webgpu, not in what was asked; please report it with the lines above.");
  } else if (error instanceof Interrupted) {
    if (exitCode !== EXIT.done) out.note(message);
  } else out.error(message);
  out.errorResult({ name, message, exitCode });
  return exitCode;
}

/** The same for errors of commander. Commander prints help and version itself; they arrive here to end the run. */
export function reportUsage(error: CommanderError, out: Output, command: string): number {
  if (error.exitCode === 0) return EXIT.done;
  if (error.code !== "commander.help") {
    // "error: unknown option '--jsn'\n(Did you mean --json?)"
    const message = error.message.replace(/^error: /, "").replace(/\n\(Did you mean (.*)\?\)$/, "; did you mean $1?");
    out.error(message);
    if (command === "janus train" && error.code === "commander.missingArgument")
      out.note("--data and --set take all words up to the next option: put the preset or YAML file before them.");
    out.note(`See: ${command} --help`);
    out.errorResult({ name: "UsageError", message, exitCode: EXIT.usage });
  }
  return EXIT.usage;
}
