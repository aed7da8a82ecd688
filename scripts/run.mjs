// `node scripts/run.mjs FILE.ts [arguments]`: set-up, then the TypeScript program. Behind `npm run demo`, `bench` and `janus`.
// The program runs in this process and has its stdin, stdout, signals and exit code directly.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ensureSetup, root } from "./setup.mjs";

const COMMAND = "cli/main.ts";
/** Commands of `janus` for which no driver need be installed. `doctor` says what there is, it does not change it. */
const WITHOUT_ADAPTER = ["help", "inspect", "convert", "doctor", "ckpt"];

function needsAdapter(file, args) {
  if (file !== COMMAND) return true;
  const isHelp = args.length === 0 || args[0].startsWith("-") || args.includes("--help") || args.includes("-h");
  if (args[0] === "eval" && ["list", "compare"].includes(args[1])) return false;
  return !isHelp && !WITHOUT_ADAPTER.includes(args[0]);
}

const [file, ...args] = process.argv.slice(2);
let isReady = false;
try {
  ensureSetup({ adapter: needsAdapter(file, args), quiet: file === COMMAND });
  isReady = true;
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}

if (isReady) {
  const program = join(root, file);
  process.chdir(root);
  const { register } = await import("tsx/esm/api");
  register({ tsconfig: join(root, "tsconfig.json") });
  if (file === COMMAND) {
    // Paths on its command line are meant from where the person is; npm has changed the folder.
    // The engine looks for SwiftShader below the working folder.
    const unpacked = join(root, ".cache", "swiftshader");
    if (existsSync(unpacked)) process.env.JANUS_VULKAN_DIR ??= unpacked;
    if (process.env.INIT_CWD) process.chdir(process.env.INIT_CWD);
  }
  process.argv = [process.argv[0], program, ...args];
  try {
    await import(pathToFileURL(program).href);
  } catch (error) {
    // What parseArgs of an example or a bench does not know; `janus` reports its own errors.
    if (!String(error?.code).startsWith("ERR_PARSE_ARGS")) throw error;
    console.error(`error: ${error.message}. The comment at the top of ${file} says what it takes.`);
    process.exitCode = 2;
  }
}
