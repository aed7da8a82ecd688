// `npm run bench:device -- FOLDER`: everything that is worth knowing about a GPU that is at hand for a few minutes, in one run: its features, whether the
// kernels are right on it, how fast they are, which variants are fastest, and the tests. Each step has a time limit and writes its own file into FOLDER,
// so that a run that is cut short still leaves what came before. About four minutes on a fast GPU.
// Exit code 0 if every step ended well, 1 if not, 2 for a wrong command line.

import { spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { join, resolve } from "node:path";
import { ensureSetup, root, tool } from "./setup.mjs";

const janus = ["scripts/run.mjs", "cli/main.ts"];
const bench = (...args) => [...janus, "bench", ...args, "--repeat", "3", "--seconds", "0.1"];

/** File of the output, arguments of Node, seconds. */
function steps(folder) {
  const json = (name) => ["--json", join(folder, name)];
  return [
    { name: "doctor.json", args: [...janus, "doctor", "--json"], seconds: 60 },
    { name: "matrices.json", args: ["--import", "tsx", "tests/subgroup_matrix_child.ts"], seconds: 120 },
    {
      name: "large.log",
      args: bench("kernels", "--shapes", "large", "--no-cold", ...json("large.jsonl")),
      seconds: 120,
    },
    { name: "model.log", args: bench("model", "--shapes", "1B", ...json("model.jsonl")), seconds: 60 },
    {
      name: "table.log",
      args: bench("kernels", "--shapes", "table,1B", "--no-cold", ...json("table.jsonl")),
      seconds: 150,
    },
    { name: "tune.json", args: [...janus, "tune", "--submit", "--seconds", "60"], seconds: 90 },
    // Last: tests that are stopped may still run for a while.
    { name: "tests.log", args: [tool("vitest"), "run", "--project", "tier1", "--maxWorkers=8"], seconds: 300 },
  ];
}

function run(folder, { name, args, seconds }) {
  const started = performance.now();
  const out = openSync(join(folder, name), "w");
  const { status, signal } = spawnSync(process.execPath, args, {
    cwd: root,
    stdio: ["ignore", out, name.endsWith(".log") ? out : "inherit"],
    timeout: 1000 * seconds,
  });
  closeSync(out);
  const took = ((performance.now() - started) / 1000).toFixed(0);
  console.log(
    `${name}: ${status === 0 ? "ok" : signal ? `stopped after ${seconds} s` : `exit code ${status}`} (${took} s)`,
  );
  return status === 0;
}

const [folder, ...rest] = process.argv.slice(2);
if (!folder || rest.length || folder.startsWith("-")) {
  console.error(
    "bench:device: a folder for the results must be given, and nothing else. Usage: npm run bench:device -- FOLDER",
  );
  process.exitCode = 2;
} else {
  const target = resolve(process.env.INIT_CWD ?? ".", folder);
  ensureSetup();
  mkdirSync(target, { recursive: true });
  const ended = steps(target).map((step) => run(target, step));
  process.exitCode = ended.every(Boolean) ? 0 : 1;
}
