// Runs the `janus` command as a person would, from its sources.
import { spawn } from "node:child_process";
import type { ChildProcess, StdioOptions } from "node:child_process";
import { EventEmitter } from "node:events";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { PassThrough, Readable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";
import { Command, CommanderError } from "commander";
import { Output } from "../cli/console.ts";
import type { AddCommand, Context } from "../cli/context.ts";
import { EXIT, reportError, reportUsage } from "../cli/errors.ts";
import { listenForSignals } from "../cli/signals.ts";

const fromRoot = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));
const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;

export interface CliOptions {
  /** For stdin, which is at its end otherwise. */
  readonly input?: string | Uint8Array;
  /** Besides those of this process; undefined takes one away. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  /** Instead of pipes; what goes elsewhere is "" in the result. */
  readonly stdio?: StdioOptions;
}

export interface CliResult {
  /** Null when a signal killed it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts `janus args…`. One process, not tsx's command, which puts a second one in between and forwards signals. */
export function startCli(
  args: readonly string[],
  options: CliOptions = {},
): { child: ChildProcess; result: Promise<CliResult> } {
  const swiftShader = fromRoot(".cache/swiftshader"); // the engine looks below the working folder
  const child = spawn(process.execPath, ["--import", tsx, fromRoot("cli/main.ts"), ...args], {
    cwd: options.cwd ?? fromRoot("."),
    env: {
      ...process.env,
      TSX_TSCONFIG_PATH: fromRoot("tsconfig.json"),
      ...(existsSync(swiftShader) ? { JANUS_VULKAN_DIR: swiftShader } : {}),
      ...options.env,
    },
    stdio: options.stdio ?? "pipe",
  });
  const texts = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (text: string) => (texts[name] += text));
  }
  child.stdin?.on("error", () => undefined); // it may end without reading all
  child.stdin?.end(options.input);
  const result = new Promise<CliResult>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, ...texts }));
  });
  return { child, result };
}

/** Runs `janus args…` to its end. */
export const runCli = (args: readonly string[], options: CliOptions = {}): Promise<CliResult> =>
  startCli(args, options).result;

interface OpenOptions {
  readonly json?: boolean;
  /** Both streams say that they are one. */
  readonly terminal?: boolean;
  readonly env?: Record<string, string>;
}

/** An `Output` whose text is kept. */
export function openOutput(options: OpenOptions = {}): { out: Output; text: { stdout: string; stderr: string } } {
  const text = { stdout: "", stderr: "" };
  const stream = (name: keyof typeof text): PassThrough & { isTTY?: boolean } => {
    const made: PassThrough & { isTTY?: boolean } = new PassThrough();
    if (options.terminal) made.isTTY = true;
    made.setEncoding("utf8").on("data", (chunk: string) => (text[name] += chunk));
    return made;
  };
  const out = new Output({
    stdout: stream("stdout"),
    stderr: stream("stderr"),
    json: options.json ?? false,
    env: options.env ?? {},
  });
  return { out, text };
}

/**
 * Runs one command in this process, which takes a few milliseconds instead of seconds: parsing, the command, its errors and exit code as in
 * `cli/main.ts`. A file of tests that uses it runs each command in a process of its own at least once.
 * @param options `signals` emits the signals that the process would get; standard input is at its end unless given
 */
export async function runHere(
  add: AddCommand,
  args: readonly string[],
  {
    stdin = Readable.from([]),
    signals = new EventEmitter(),
  }: { readonly stdin?: Readable; readonly signals?: EventEmitter } = {},
): Promise<CliResult> {
  // prettier-ignore
  const { out, text } = openOutput({ json: args.includes("--json") });
  const controller = new AbortController();
  listenForSignals(signals, controller, out, () => controller.abort(new Error("a second signal came")));
  const context: Context = { out, stdin, signal: controller.signal, exitCode: EXIT.done };
  const program = new Command("janus").exitOverride().configureOutput({ outputError: () => undefined });
  program.hook("preAction", (_, command) => {
    out.json = command.opts<{ json?: boolean }>().json === true;
  });
  add(program, context);
  let code: number;
  try {
    await program.parseAsync(args, { from: "user" });
    code = context.exitCode;
  } catch (error) {
    code = error instanceof CommanderError ? reportUsage(error, out, `janus ${args[0]}`) : await reportError(error, out, context.signal); // prettier-ignore
  }
  out.close();
  await out.flush();
  return { code, ...text };
}
