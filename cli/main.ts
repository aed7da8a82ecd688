#!/usr/bin/env node
/** The `janus` command: runs the requested command (program.ts has them) and exits with its exit code. */
import { CommanderError } from "commander";
import { Output } from "./console.ts";
import type { Context } from "./context.ts";
import { EXIT, Interrupted, reportError, reportUsage } from "./errors.ts";
import { buildProgram } from "./program.ts";
import { listenForSignals } from "./signals.ts";

/** Before the command line is read for good: an error in it must come as JSON too. */
function asksForJson(args: readonly string[]): boolean {
  const end = args.indexOf("--");
  return args.slice(0, end < 0 ? args.length : end).includes("--json");
}

async function run(args: readonly string[]): Promise<number> {
  const controller = new AbortController();
  const out = new Output({
    json: asksForJson(args),
    onBroken: (error) => controller.abort(new Interrupted(`standard output is closed: ${error.message}`, EXIT.done)),
  });
  listenForSignals(process, controller, out, (code) => process.exit(code));
  process.on("uncaughtException", (error) => {
    void reportError(error, out, controller.signal).then((code) => process.exit(code));
  });
  // Set to nothing, it means the same as not set; commander would take "" for the name of a model.
  if (!process.env["JANUS_MODEL"]?.trim()) delete process.env["JANUS_MODEL"];
  const context: Context = { out, stdin: process.stdin, signal: controller.signal, exitCode: EXIT.done };
  const program = buildProgram(context);
  let code: number;
  try {
    await program.parseAsync(args, { from: "user" });
    code = context.exitCode;
  } catch (error) {
    if (error instanceof CommanderError) {
      const isCommand = program.commands.some((command) => command.name() === args[0]);
      code = reportUsage(error, out, isCommand ? `janus ${args[0]}` : "janus");
    } else code = await reportError(error, out, controller.signal);
  }
  out.close();
  await out.flush();
  // If the reader has closed the pipe (`| head`), this is not an error. A full disk is.
  if (out.broken && code === EXIT.done && !isBrokenPipe(out.broken)) {
    out.error(`standard output cannot be written: ${out.broken.message}`);
    return EXIT.input;
  }
  return code;
}

const isBrokenPipe = (error: NodeJS.ErrnoException): boolean => error.code === "EPIPE" || error.code === "EOF";

process.exit(await run(process.argv.slice(2)));
