/** `mpirun -n 2 janus train`: the run of one process, shared; it resumes in any world, and names what differs between ranks. Needs Open MPI. */
import { spawn, spawnSync } from "node:child_process";
import type { ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { writeDataset } from "../../examples/shapes/dataset_files.ts";
import { Device } from "../../index.ts";
import { Checkpoints } from "../../train/node/run/checkpoints.ts";
import { isLong } from "../long.ts";
import { SMALL } from "../small_model.ts";

const has = spawnSync("mpirun", ["--version"], { encoding: "utf8" }).stdout?.includes("Open MPI") ?? false;
if (!has) console.log("mpi: did not run, because Open MPI is not installed (Debian: openmpi-bin)");

/** Loss of the random weights: the logarithms of the vocabulary and of the codebook, in the shares of their tokens. */
const LN_OF_HEADS = 4.78;

/** True if this process may make network namespaces. */
function hasNamespaces(): boolean {
  const made = spawnSync("ip", ["netns", "add", "janus-test-0"]).status === 0;
  if (made) spawnSync("ip", ["netns", "del", "janus-test-0"]);
  return made;
}

const EXIT_WENT_AWAY = 138;
const WATCHDOG_MS = 600_000;
/** How long a rank may be silent, and in what time a failed one must end all. The short form also runs on loaded machines: five times as long, but the silence is not what ends it. */
const SILENCE_S = isLong ? 30 : 300;
const ENDED_S = isLong ? 30 : 150;

/** Ranks that run. */
interface Begun {
  readonly child: ChildProcessWithoutNullStreams;
  readonly printed: { readonly stdout: string; readonly stderr: string };
  readonly ended: Promise<number | null>;
  readonly seen: (pattern: RegExp) => Promise<void>;
}

const home = mkdtempSync(join(tmpdir(), "janus-mpi-"));
const at = (...names: string[]): string => join(home, ...names);
const root = join(import.meta.dirname, "..", "..");

describe.skipIf(!has)("Open MPI", () => {
  beforeAll(async () => {
    await writeDataset(at("data"), { pictures: 30, seed: 1 });
    const device = await Device.create();
    await newCheckpoint(at("model"), {
      device,
      changes: SMALL,
      texts: [readFileSync(at("data", "text.jsonl"), "utf8")],
    });
    device.destroy();
  });
  afterAll(() => rmSync(home, { recursive: true, force: true }));

  const words = (run: string, changes: readonly string[]): string[] => [
    process.execPath,
    "--import",
    "tsx",
    join(root, "cli", "main.ts"),
    "train",
    "stage2",
    `--model=${at("model")}`,
    `--run=${at(run)}`,
    `--cache=${at("cache")}`,
    "--data",
    at("data", "und.jsonl"),
    `gen=${at("data", "gen.jsonl")}`,
    at("data", "text.jsonl"),
    "--set",
    "length=300",
    "report.prompts=[]",
    "report.every=0",
    "batch=10",
    "optimizer.warmup=0",
    "steps=3",
    "save.every=2",
    ...changes,
  ];
  const HERE = ["--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1"];
  const start = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(args[0]!, args.slice(1), { cwd: root, encoding: "utf8" });
  const train = (ranks: number, run: string, ...changes: string[]) =>
    start(...(ranks > 1 ? ["mpirun", ...HERE, "-n", String(ranks)] : []), ...words(run, changes));

  const files = (run: string): Map<string, Buffer> => {
    const step = at(run, "step-00000003");
    return new Map(readdirSync(step).filter((name) => name.endsWith(".safetensors")).map((name) => [name, readFileSync(join(step, name))])); // prettier-ignore
  };
  const losses = (run: string): number[] =>
    readFileSync(at(run, "log.jsonl"), "utf8")
      .split("\n")
      .flatMap((line) => (line.includes('"loss"') ? [(JSON.parse(line) as { loss: number }).loss] : []));

  const complete = (ranks: number, run: string, ...changes: string[]): ReturnType<typeof train> => {
    const ended = train(ranks, run, ...changes);
    expect(ended.status, ended.stderr).toBe(0);
    return ended;
  };

  /** Starts ranks that go on until they are stopped; `seen` resolves when all that they have printed matches. */
  const begin = (ranks: number, run: string, changes: readonly string[] = [], env: NodeJS.ProcessEnv = {}): Begun => {
    const [node, ...rest] = words(run, changes);
    const fault = env["JANUS_TEST_FAULT"] ? ["--import", "tsx", "--import", join(root, "tests", "rank_fault.ts")] : [];
    return launch("mpirun", [...HERE, "-n", String(ranks), node!, ...fault, ...rest], env);
  };

  const launch = (command: string, args: readonly string[], env: NodeJS.ProcessEnv): Begun => {
    const child = spawn(command, args, { cwd: root, env: { ...process.env, ...env } });
    const printed = { stdout: "", stderr: "" };
    const watchers = new Set<() => void>();
    for (const stream of ["stdout", "stderr"] as const)
      child[stream].on("data", (bytes: Buffer) => {
        printed[stream] += bytes.toString();
        for (const watcher of watchers) watcher();
      });
    const ended = once(child, "close").then(([status]) => status as number | null);
    const seen = (pattern: RegExp): Promise<void> =>
      Promise.race([
        new Promise<void>((resolve) => {
          const look = (): void => void (pattern.test(printed.stderr) && watchers.delete(look) && resolve());
          watchers.add(look);
          look();
        }),
        ended.then((status) => expect.fail(`ended with ${status}: ${printed.stderr}`)),
      ]);
    return { child, printed, ended, seen };
  };

  /** Ids of the processes that `parent` has started and that train. */
  const ranksOf = (parent: number): number[] =>
    readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8")
      .trim()
      .split(" ")
      .map(Number)
      .filter((pid) => readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("main.ts"));

  it("rank 0 alone prints and writes; SIGUSR1 to mpirun saves, and all leave", async () => {
    const { child, printed, ended, seen } = begin(2, "run", ["steps=1000", "sharding=optimizer"]);
    await seen(/^step 1\//m);
    child.kill("SIGUSR1");
    const status = await ended;
    expect(printed.stderr).toMatch(/stopped after \d+ of 1,000 steps; saved/);
    expect(status, printed.stderr).toBe(EXIT_WENT_AWAY);
    expect(printed.stderr.match(/^step 1\/1000 /gm)).toHaveLength(1);
    expect(losses("run")[0]).toBeCloseTo(LN_OF_HEADS, 1);
    const { newest } = await new Checkpoints(at("run")).newestVerified();
    expect(printed.stdout).toBe(`${newest!.path}\n`);
  });

  it("a signal that one rank gets before the first step ends all", async () => {
    const { child, printed, ended, seen } = begin(2, "early");
    await seen(/software adapter/);
    process.kill(ranksOf(child.pid!)[1]!, "SIGUSR1");
    expect(await ended, printed.stderr).toBe(EXIT_WENT_AWAY);
    expect(printed.stderr).toMatch(/rank 1 on \S+: stopped by SIGUSR1/);
  });

  it("a rank that is suspended ends all after the time-out, by its name", () => {
    const env = { ...process.env, JANUS_MPI_TIMEOUT: "5" };
    const words = ["mpirun", ...HERE, "-n", "3", process.execPath, "--import", "tsx", join(root, "tests", "silent_rank_child.ts")]; // prettier-ignore
    const { status, stderr } = spawnSync(words[0]!, words.slice(1), { cwd: root, env, encoding: "utf8", timeout: WATCHDOG_MS }); // prettier-ignore
    expect(status, stderr).toBe(1);
    expect(stderr).toMatch(/^mpi: every rank must show that it runs; got nothing from rank 2 on \S+ for 5 s/m);
  });

  /** What is printed of a rank that fails. */
  const NAMED = (rank: number): Readonly<Record<string, RegExp>> => ({
    kill: new RegExp(`process rank ${rank} .* exited on signal 9`),
    error: new RegExp(`error: .*rank ${rank} on \\S+: (Error: )?a fault of the test`),
    lost: new RegExp(`error: .*rank ${rank} on \\S+: .*the device must be alive`),
    stop: new RegExp(`got nothing from rank ${rank} on \\S+ for ${SILENCE_S} s`),
  });

  /** Trains until rank `rank` fails in a phase of its step `step`: all end in time, by name, and no checkpoint is lost. */
  async function fails(
    run: string,
    {
      rank = 1,
      phase,
      kind,
      step = 2,
      sharding,
    }: { rank?: number; phase: string; kind: string; step?: number; sharding: string },
  ): Promise<void> {
    // prettier-ignore
    const before = existsSync(at(run)) ? ((await new Checkpoints(at(run)).newestVerified()).newest?.step ?? 0) : 0;
    const env = { JANUS_TEST_FAULT: `${rank} ${phase} ${kind} ${step}`, JANUS_MPI_TIMEOUT: String(SILENCE_S) };
    const { printed, ended } = begin(2, run, ["steps=1000", "save.every=1", `sharding=${sharding}`], env);
    expect(await ended, printed.stderr).not.toBe(0);
    const failed = Number(/^fault at (\d+)$/m.exec(printed.stderr)?.[1]);
    const seconds = (Date.now() - failed) / 1000;
    expect(seconds, printed.stderr).toBeLessThan(ENDED_S + (kind === "stop" ? SILENCE_S : 0));
    expect(printed.stderr).toMatch(NAMED(rank)[kind]!);
    const { newest, skipped } = await new Checkpoints(at(run)).newestVerified();
    expect(skipped).toEqual([]);
    expect(newest!.step).toBe(before + step - 1);
    console.log(`${kind} rank ${rank} ${phase} ${sharding}: ${seconds.toFixed(1)} s`);
  }

  const PHASES = ["data", "forward", "backward", "reduction", "optimizer", "saving"];
  const SHARDINGS = ["none", "optimizer", "gradients", "parameters"];

  // Ranks that are killed, which mpirun itself sees, are in the long form.
  it("a rank whose GPU is lost while it saves ends all", () =>
    fails("fault", { phase: "saving", kind: "lost", sharding: "optimizer" }));

  describe.runIf(isLong).each(SHARDINGS)("sharding: %s", (sharding) => {
    describe.each(PHASES)("%s", (phase) => {
      it.each([0, 1])("rank %d is killed, twice", async (rank) => {
        await fails(`kill-${sharding}`, { rank, phase, kind: "kill", sharding });
        await fails(`kill-${sharding}`, { rank, phase, kind: "kill", step: 3, sharding });
      });
      it.each(["error", "lost"])("%s", (kind) => fails(`kill-${sharding}`, { phase, kind, sharding }));
      it.runIf(sharding === "gradients")("stop", () => fails(`kill-${sharding}`, { phase, kind: "stop", sharding }));
    });
  });

  it.runIf(isLong)("trains as one process does, and resumes bit for bit", () => {
    complete(2, "whole");
    complete(2, "parts", "stopAt=2");
    complete(2, "parts", "stopAt=3");
    expect(files("parts")).toEqual(files("whole"));
    complete(1, "alone");
    expect(losses("alone")).toHaveLength(3);
    for (const [step, loss] of losses("alone").entries())
      expect(Math.abs(losses("whole")[step]! - loss)).toBeLessThan(1e-5 * loss);
  });

  it.runIf(isLong && hasNamespaces())(
    "ranks in network namespaces of their own, behind a slow link, get the same bits",
    () => {
      complete(2, "near", "sharding=gradients");
      const [net, ns] = ["10.77.0", "janus-test"];
      const ip = (...args: string[]): void => expect(spawnSync("ip", args, { encoding: "utf8" }).stderr).toBe("");
      writeFileSync(at("agent"), `#!/bin/bash\nhost=$1; shift\nexec ip netns exec ${ns}-\${host##*.} bash -c "$*"\n`, { mode: 0o755 }); // prettier-ignore
      try {
        for (const i of [1, 2]) ip("netns", "add", `${ns}-${i}`);
        ip("link", "add", "janus1", "netns", `${ns}-1`, "type", "veth", "peer", "name", "janus2", "netns", `${ns}-2`);
        for (const i of [1, 2]) {
          ip("-n", `${ns}-${i}`, "addr", "add", `${net}.${i}/24`, "dev", `janus${i}`);
          for (const link of ["lo", `janus${i}`]) ip("-n", `${ns}-${i}`, "link", "set", link, "up");
          // netem, which also delays and loses packets, is not in every kernel; this limits the rate.
          ip("netns", "exec", `${ns}-${i}`, "tc", "qdisc", "add", "dev", `janus${i}`, "root", "tbf", "rate", "100mbit", "burst", "64kb", "latency", "200ms"); // prettier-ignore
        }
        const only = ["oob_tcp_if_include", "btl_tcp_if_include"].flatMap((name) => ["--mca", name, `${net}.0/24`]);
        const mpi = ["--host", `${net}.1:1,${net}.2:1`, "--mca", "plm_rsh_agent", at("agent"), "--mca", "btl", "tcp,self", ...only]; // prettier-ignore
        const far = start("ip", "netns", "exec", `${ns}-1`, "mpirun", ...HERE, ...mpi, "-n", "2", ...words("far", ["sharding=gradients"])); // prettier-ignore
        expect(far.status, far.stderr).toBe(0);
        expect(files("far")).toEqual(files("near"));
      } finally {
        for (const i of [1, 2]) spawnSync("ip", ["netns", "del", `${ns}-${i}`]);
      }
    },
  );

  describe.runIf(isLong)("examples/cluster", () => {
    const script = (name: string): string => {
      const text = readFileSync(join(root, "examples", "cluster", name), "utf8");
      if (!name.endsWith(".yaml")) return text;
      const { spec } = parse(text) as { spec: { mpiReplicaSpecs: { Launcher: { template: { spec: { containers: { args: string[] }[] } } } } } }; // prettier-ignore
      return spec.mpiReplicaSpecs.Launcher.template.spec.containers[0]!.args[0]!.replaceAll("/mnt/janus", home);
    };

    it.each([
      ["mpirun.sh", "runs/stage2", "SIGTERM"],
      ["mpijob.yaml", "runs/stage2", "SIGTERM"],
      ["train.sbatch", "runs/stage2", "SIGUSR1"], // which Slurm sends to srun, and srun to the ranks
    ] as const)("%s trains, and saves after a signal", async (name, run, signal) => {
      rmSync(at(run), { recursive: true, force: true });
      const tool = (tool: string, text: string): void => writeFileSync(at("bin", tool), `#!/bin/bash\n${text}\n`, { mode: 0o755 }); // prettier-ignore
      mkdirSync(at("bin"), { recursive: true });
      const small = words(run, ["steps=1000", "save.every=1"]);
      tool("npx", `shift; exec ${small.slice(0, 4).join(" ")} "$@" ${small.slice(small.indexOf("--set")).map((word) => `'${word}'`).join(" ")}`); // prettier-ignore
      tool("srun", `while [[ $1 == --* ]]; do shift; done; exec mpirun "$@"`);
      writeFileSync(at("hosts"), "localhost slots=2\n");
      const mca = { rmaps_base_oversubscribe: "1", hwloc_base_binding_policy: "none", mpi_yield_when_idle: "1", orte_default_hostfile: at("hosts") }; // prettier-ignore
      const env = { PATH: `${at("bin")}:${process.env["PATH"]}`, HOSTS: at("hosts"), MODEL: at("model"), DATA: at("data"), RUN: at(run), OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1", ...Object.fromEntries(Object.entries(mca).map(([key, value]) => [`OMPI_MCA_${key}`, value])) }; // prettier-ignore
      const { child, printed, ended, seen } = launch("bash", ["-c", script(name)], env);
      await seen(/^step 1\//m);
      const [mpirun] = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").split(" ");
      if (signal === "SIGTERM") child.kill(signal);
      else process.kill(Number(mpirun), signal);
      expect(await ended, printed.stderr).toBe(EXIT_WENT_AWAY);
      expect(printed.stderr).toMatch(/stopped after \d+ of 1,000 steps; saved/);
      expect((await new Checkpoints(at(run)).newestVerified()).newest).not.toBeNull();
    });
  });

  it.runIf(isLong)(
    "ranks with different settings end before the first step, with the difference and their names",
    () => {
      const [a, b] = [words("other", []), words("other", ["optimizer.lr=3e-5"])];
      const { status, stderr } = start("mpirun", ...HERE, "-n", "1", ...a, ":", "-n", "1", ...b);
      expect(status).not.toBe(0);
      expect(stderr).toMatch(
        /error: rank \d on \S+: train: all ranks must have the same settings\.optimizer\.lr; rank 0 has 0.0001, rank 1 has 0.00003/,
      );
    },
  );
});
