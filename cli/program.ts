/** The command line as commander describes it: all commands of `janus` with their options. Parses nothing yet. */
import { Command } from "commander";
import { addAsk } from "./ask.ts";
import { addBench } from "./bench.ts";
import { addChat } from "./chat.ts";
import { addCkpt } from "./ckpt.ts";
import { addConvert } from "./convert.ts";
import { addData } from "./data.ts";
import { addDoctor } from "./doctor.ts";
import { addEval } from "./eval.ts";
import { addFinetune } from "./finetune.ts";
import { addGenerate } from "./generate.ts";
import { addInspect } from "./inspect.ts";
import { addMerge } from "./merge.ts";
import { addReconstruct } from "./reconstruct.ts";
import { addServe } from "./serve.ts";
import { addTrain } from "./train.ts";
import { addTune } from "./tune.ts";
import { addVerify } from "./verify.ts";
import type { AddCommand, Context } from "./context.ts";
import { UsageError, exitCodeTable } from "./errors.ts";
import { ownVersion } from "./packages.ts";
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

/** Commands that several processes may run together. */
const SHARED = ["train", "eval", "doctor", "data index", "data tokenize"];

/** Throws `UsageError` if mpirun has started several processes of a command that would do the same work in each. */
function requireOneProcess(names: readonly string[]): void {
  const launched = launchedBy();
  const command = names.join(" ");
  if (launched && launched.size > 1 && !SHARED.includes(command) && !SHARED.includes(names[0]!))
    throw new UsageError(`janus ${command} runs as one process; ${launched.by} started ${launched.size}. Start it without mpirun; several processes share: ${SHARED.join(", ")}`); // prettier-ignore
}

export function buildProgram(context: Context): Command {
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
      requireOneProcess([...(command.parent && command.parent !== program ? [command.parent.name()] : []), command.name()]); // prettier-ignore
    });
  for (const add of COMMANDS) add(program, context);
  return program;
}
