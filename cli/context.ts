/** Context of every command. The file of a command exports one function that adds it to the program. */
import type { Readable } from "node:stream";
import type { Command } from "commander";
import type { Output } from "./console.ts";

export interface Context {
  readonly out: Output;
  readonly stdin: Readable;
  /** Aborted by the first Ctrl-C (or SIGTERM), and when stdout is closed. Pass it to every long operation. */
  readonly signal: AbortSignal;
  /** Exit code if the command does not throw; `EXIT.checkFailed` for a check that did not pass. */
  exitCode: number;
}

/** Adds a command. Heavy modules are imported inside its action, so that `janus --help` stays quick. */
export type AddCommand = (program: Command, context: Context) => void;
