/** Loaded before the command in every rank by tests: JANUS_TEST_FAULT="RANK PHASE KIND STEP" makes one of them fail in a phase of a step, counted in its process. */
import { writeSync } from "node:fs";
import { Device } from "../index.ts";
import { Loader } from "../train/node/data/loader.ts";
import { Mpi } from "../train/node/ranks/mpi.ts";
import { StagedFolder } from "../train/node/run/staged_folder.ts";
import { GradientSums } from "../train/sharding/sums.ts";
import { Trainer } from "../train/trainer.ts";

type Method = (...args: unknown[]) => unknown;
const prototypeOf = (one: { readonly prototype: object }): Record<string, Method> =>
  one.prototype as Record<string, Method>;

/** By phase: the method in which it is. */
const PHASES: Readonly<Record<string, readonly [Record<string, Method>, string]>> = {
  data: [prototypeOf(Loader), "next"],
  forward: [prototypeOf(Trainer), "accumulate"],
  backward: [prototypeOf(GradientSums), "ready"],
  reduction: [prototypeOf(Mpi), "allToAll"],
  optimizer: [prototypeOf(Trainer), "update"],
  saving: [prototypeOf(StagedFolder), "write"],
};

let device: Device | null = null;
const create = Device.create.bind(Device);
Device.create = async (...args) => (device = await create(...args));

const KINDS: Readonly<Record<string, () => void>> = {
  kill: () => process.kill(process.pid, "SIGKILL"),
  stop: () => process.kill(process.pid, "SIGSTOP"),
  error: () => {
    throw new Error("a fault of the test");
  },
  lost: () => device!.gpu!.destroy(),
};

const [rank, phase, kind, step] = (process.env["JANUS_TEST_FAULT"] ?? "").split(" ");
if (process.env["OMPI_COMM_WORLD_RANK"] === rank) {
  let steps = 0;
  let hasFailed = false;
  const loader = prototypeOf(Loader);
  const next = loader["next"]!;
  loader["next"] = function (this: unknown, ...args) {
    steps++;
    return next.apply(this, args);
  };
  const [owner, name] = PHASES[phase!]!;
  const method = owner[name]!;
  owner[name] = function (this: unknown, ...args) {
    if (!hasFailed && steps + Number(phase === "data") >= Number(step)) {
      hasFailed = true;
      writeSync(2, `fault at ${Date.now()}\n`);
      KINDS[kind!]!();
    }
    return method.apply(this, args);
  };
}
