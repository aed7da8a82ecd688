#!/usr/bin/env node
/** The `janus` command: registers the commands, runs the requested one, and exits with its exit code. */
import { Command, CommanderError } from "commander";
import { addAsk } from "./ask.ts";
import { addBench } from "./bench.ts";
import { addChat } from "./chat.ts";
import { addCkpt } from "./ckpt.ts";
import { Output } from "./console.ts";
import type { AddCommand, Context } from "./context.ts";
import { addConvert } from "./convert.ts";
import { addData } from "./data.ts";
import { addDoctor } from "./doctor.ts";
import { addEval } from "./eval.ts";
import { EXIT, Interrupted, UsageError, exitCodeTable, reportError, reportUsage } from "./errors.ts";
import { addFinetune } from "./finetune.ts";
import { addGenerate } from "./generate.ts";
import { addInspect } from "./inspect.ts";
import { ownVersion } from "./packages.ts";
import { addMerge } from "./merge.ts";
import { addReconstruct } from "./reconstruct.ts";
import { addServe } from "./serve.ts";
import { listenForSignals } from "./signals.ts";
import { addTrain } from "./train.ts";
import { addTune } from "./tune.ts";
import { addVerify } from "./verify.ts";
import { launchedBy } from "../train/node/ranks/launched.ts";

// In the order of `janus --help`. A new command: its own file, one line here, and one in scripts/run.mjs if it needs no GPU.
const COMMANDS: readonly AddCommand[] = [
  addGenerate,
  addAsk,
  addChat,
  addReconstruct,
  addServe,
  addInspect,
  addConvert,
  addMerge,
  addVerify,
  addEval,
  addTrain,
  addFinetune,
  addCkpt,
  addData,
  addDoctor,
  addBench,
  addTune,
];

/** Before the command line is read for good: an error in it must come as JSON too. */
function asksForJson(args: readonly string[]): boolean {
  const end = args.indexOf("--");
  return args.slice(0, end < 0 ? args.length : end).includes("--json");
}

/** Commands that several processes may run together. */
const SHARED = ["train", "eval", "doctor"];

/** Throws `UsageError` if mpirun has started several processes of a command that would do the same work in each. */
function requireOneProcess(command: string): void {
  const launched = launchedBy();
  if (launched && launched.size > 1 && !SHARED.includes(command))
    throw new UsageError(`janus ${command} runs as one process; ${launched.by} started ${launched.size}. Start it without mpirun; several processes share: ${SHARED.join(", ")}`); // prettier-ignore
}

function buildProgram(context: Context): Command {
  const program = new Command("janus")
    .description("Janus-Pro on any GPU: generate images, ask about images, train, and manage checkpoints.")
    .version(ownVersion(), "--version", "print the version")
    .helpOption("-h, --help", "show help")
    .helpCommand("help [command]", "show help for a command")
    .configureOutput({ outputError: () => undefined }) // reportUsage says it
    .exitOverride()
    .addHelpText("after", `\n${exitCodeTable()}`)
    .hook("preAction", (_, command) => {
      context.out.json = command.opts<{ json?: boolean }>().json === true;
      requireOneProcess(command.parent === program ? command.name() : (command.parent?.name() ?? ""));
    });
  for (const add of COMMANDS) add(program, context);
  return program;
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
