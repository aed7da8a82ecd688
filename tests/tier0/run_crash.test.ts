/**
 * Checkpoints through crashes: every state that a power failure may leave, by a model of a file system; SIGKILL at random moments of saving, for
 * real; and I/O errors at every operation.
 */
import { isLong } from "../long.ts";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { FolderSink } from "../../model/io/bytes.ts";
import { FileError } from "../../model/node/files.ts";
import { Checkpoints } from "../../train/node/run/checkpoints.ts";
import { RunFolderError, SaveError } from "../../train/node/run/errors.ts";
import { RunFolder } from "../../train/node/run/run_folder.ts";
import { StagedFolder, prune, stepsToPrune } from "../../train/node/run/staged_folder.ts";
import type { Keep } from "../../train/node/run/staged_folder.ts";
import type { ManifestEntry } from "../../train/node/run/manifest.ts";
import { ModelFileSystem, crashStates } from "../run_model_fs.ts";
import type { Enumeration, Operation } from "../run_model_fs.ts";
import { compile, killRepeatedly } from "../run_kills.ts";
import { randomFrom } from "../random.ts";

const SEED = Number(process.env["JANUS_TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const temporary = mkdtempSync(join(tmpdir(), "janus-crash-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

const RUN = "/run";
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const stateOf = (step: number): Uint8Array => bytesOf(JSON.stringify({ step }));

/** A small checkpoint: nested, a file in two writes, contents that give the step. */
const filling =
  (step: number) =>
  async (sink: FolderSink): Promise<void> => {
    await sink.write("model/model.safetensors", async (file) => {
      await file.write(new Uint8Array(48).fill(step));
      await file.write(new Uint8Array(16).fill(step + 1));
    });
    await sink.write("state.json", stateOf(step));
  };

interface Violations {
  /** The newest checkpoint that verifies is older than the last acknowledged one. */
  older: number;
  /** A folder has a step's name and is not whole. */
  broken: number;
  first: string;
}

interface Found extends Enumeration, Violations {
  /** States that differ, each of them looked at. */
  distinct: number;
}

/** Looks at every crash state of what was logged. */
async function enumerate(model: ModelFileSystem, limit = 2 ** 14): Promise<Found> {
  const found: Found = { states: 0, sampled: 0, distinct: 0, older: 0, broken: 0, first: "" };
  const known = new Map<string, { newest: number; broken: string }>();
  for (const { at, marked, fileSystem, key } of crashStates(model, found, randomFrom(SEED), limit)) {
    let seen = known.get(key);
    if (!seen) {
      const checkpoints = new Checkpoints(RUN, fileSystem);
      const hasRun = (await fileSystem.kind(RUN)) !== null;
      const { newest, skipped } = hasRun ? await checkpoints.newestVerified() : { newest: null, skipped: [] };
      if (newest) {
        const file = await fileSystem.open(`${newest.path}/state.json`);
        expect(await file.read(0, file.size)).toEqual(stateOf(newest.step));
      }
      const rest = hasRun ? (await checkpoints.list()).filter((step) => step < (newest?.step ?? 0)) : [];
      const verdicts = [...skipped, ...(await Promise.all(rest.map((step) => checkpoints.verify(step))))];
      const broken = verdicts.flatMap(({ step, problems }) => problems.map((problem) => `step ${step}: ${problem}`));
      seen = { newest: newest?.step ?? -1, broken: broken.join("; ") };
      known.set(key, seen);
    }
    if (marked !== null && seen.newest < marked) {
      found.older++;
      found.first ||= `after ${at} operations: newest ${seen.newest}, acknowledged ${marked}\n${key}`;
    }
    if (seen.broken) {
      found.broken++;
      found.first ||= `after ${at} operations: ${seen.broken}\n${key}`;
    }
  }
  found.distinct = known.size;
  return found;
}

const openModel = (model: ModelFileSystem): Promise<RunFolder> =>
  RunFolder.open(RUN, { create: true, fileSystem: model, isAlive: () => false, heartbeatMs: 0 });

type Change = (model: ModelFileSystem) => void;

/** A run that saves; `change` breaks the file system under it. */
async function record(
  steps: readonly number[],
  keep: Keep,
  change: Change = () => undefined,
): Promise<ModelFileSystem> {
  const model = new ModelFileSystem();
  change(model);
  const run = await openModel(model);
  model.settle(); // the lock need not be durable
  for (const step of steps) {
    const saved = await run.save(step, filling(step), keep);
    expect(saved.pruneProblem).toBeNull();
    model.mark(step);
  }
  return model;
}

type Order = "right" | "prune first" | "manifest first";

/** The steps of `RunFolder.save`, in the right order or a wrong one. */
async function recordInOrder(steps: readonly number[], keep: Keep, order: Order): Promise<ModelFileSystem> {
  const model = new ModelFileSystem();
  await (await openModel(model)).close();
  const checkpoints = new Checkpoints(RUN, model);
  const pruneOld = async (saved: number): Promise<void> => {
    const all = await checkpoints.list();
    await prune(model, RUN, stepsToPrune(all, new Set(all), saved, keep));
  };
  for (const step of steps) {
    if (order === "prune first") await pruneOld(step);
    const staged = new StagedFolder(model, RUN, step);
    await staged.create();
    if (order === "manifest first") {
      // With the right hashes, from a copy; and the manifest decides over the name, as it does when it is the last.
      await staged.writeManifest(await entriesOf(step));
      await staged.publish();
      await filling(step)(staged);
      await staged.syncFolders();
      await model.syncFolder(`${RUN}/step-${String(step).padStart(8, "0")}`);
    } else {
      await filling(step)(staged);
      await staged.syncFolders();
      await staged.writeManifest();
      await staged.publish();
    }
    if (order !== "prune first") await pruneOld(step);
    model.mark(step);
  }
  return model;
}

async function entriesOf(step: number): Promise<Map<string, ManifestEntry>> {
  const model = new ModelFileSystem();
  const staged = new StagedFolder(model, "/", step);
  await staged.create();
  await filling(step)(staged);
  return staged.files;
}

const STEPS = [10, 20, 30, 40];
const text = ({ states, distinct, sampled, older, broken }: Found): string =>
  `${states} crash states (${distinct} distinct, ${sampled} by chance), ${older} older than acknowledged, ${broken} with a broken checkpoint`;

describe(`crash states (seed ${SEED})`, () => {
  const runs: [string, readonly number[], Keep][] = [
    ["keep the last", STEPS, { last: 1 }],
    ["keep two and every 20th", [10, 20, 30, 40, 50, 60], { last: 2, every: 20 }],
  ];
  it.each(runs)(
    "%s: the newest that verifies is never older than the last acknowledged, and none is broken",
    async (name, steps, keep) => {
      const found = await enumerate(await record(steps, keep));
      console.log(`${name}: ${text(found)}`);
      expect(found).toMatchObject({ older: 0, broken: 0, first: "" });
      expect(found.distinct).toBeGreaterThan(150);
      expect(found.sampled).toBe(0); // all of them, none by chance
    },
  );

  it("a save that fails half-way, a process that ends, and another one that goes on", async () => {
    const model = new ModelFileSystem();
    const run = await openModel(model);
    model.settle();
    await run.save(10, filling(10), { last: 1 });
    model.mark(10);
    const failing = async (sink: FolderSink): Promise<void> => {
      await filling(20)(sink);
      throw new Error("the model is on fire");
    };
    await expect(run.save(20, failing, { last: 1 })).rejects.toThrow("the model is on fire");
    const next = await openModel(model); // the first one did not close
    model.settle();
    await next.save(20, filling(20), { last: 1 });
    model.mark(20);
    await next.close();
    const found = await enumerate(model);
    console.log(`fails and goes on: ${text(found)}`);
    expect(found).toMatchObject({ older: 0, broken: 0, first: "" });
  });

  it("a process that ends right after the rename, and another one that goes on from its checkpoint", async () => {
    const model = new ModelFileSystem();
    const run = await openModel(model);
    await run.save(10, filling(10), { last: 1 });
    model.settle();
    model.mark(10);
    let isDead = false;
    model.hook = (operation) => {
      if (isDead) throw new Error("no operation comes from a dead process");
      isDead = operation === "rename";
    };
    await expect(run.save(20, filling(20), { last: 1 })).rejects.toThrow("dead process");
    model.hook = () => undefined;
    const next = await openModel(model);
    expect((await next.newestVerified()).newest?.step).toBe(20);
    model.mark(20); // whoever reads that it resumes from step 20 relies on it
    expect(await next.save(30, filling(30), { last: 1 })).toMatchObject({ pruned: [20, 10] });
    model.mark(30);
    const found = await enumerate(model);
    console.log(`ends after the rename: ${text(found)}`);
    expect(found).toMatchObject({ older: 0, broken: 0, first: "" });
  });

  it("after a crash the folder opens, is cleaned, and the next save is as good as any", async () => {
    const model = await record([10, 20, 30], { last: 1 });
    const counts: Enumeration = { states: 0, sampled: 0 };
    const seen = new Set<string>();
    for (const { fileSystem, key, marked } of crashStates(model, counts, randomFrom(SEED))) {
      if (marked === null || seen.has(key)) continue;
      seen.add(key);
      const run = await openModel(fileSystem);
      await run.save(40, filling(40), { last: 1 });
      expect(await run.list()).toEqual([40]);
      expect((await run.newestVerified()).newest?.step).toBe(40);
      await run.close();
      const left = (await fileSystem.list(RUN))
        .map(({ name }) => name)
        .filter((name) => !name.startsWith(".lock-stale"));
      expect(left).toEqual(["step-00000040"]);
    }
    expect(seen.size).toBeGreaterThan(200);
  });

  it("the same steps put together by hand are right", async () => {
    const found = await enumerate(await recordInOrder(STEPS, { last: 1 }, "right"));
    expect(found).toMatchObject({ older: 0, broken: 0, first: "" });
  });

  const noSync =
    (operation: "sync" | "syncFolder"): Change =>
    (model) => {
      const push = model.log.push.bind(model.log);
      model.log.push = (...ops) => push(...ops.filter(({ type }) => type !== operation));
    };
  const broken: [string, () => Promise<ModelFileSystem>, keyof Violations][] = [
    ["no fsync of files", () => record(STEPS, { last: 1 }, noSync("sync")), "older"],
    ["no fsync of folders", () => record(STEPS, { last: 1 }, noSync("syncFolder")), "older"],
    ["prune first", () => recordInOrder(STEPS, { last: 1 }, "prune first"), "older"],
    ["manifest first", () => recordInOrder(STEPS, { last: 1 }, "manifest first"), "broken"],
  ];
  it.each(broken)("a broken protocol is caught: %s", async (name, run, by) => {
    const found = await enumerate(await run(), 512);
    console.log(`${name}: ${text(found)}`);
    expect(found[by]).toBeGreaterThan(0);
  });
});

const MUTATING: readonly Operation[] = ["makeFolder", "create", "write", "sync", "syncFolder", "rename", "removeFile", "removeFolder"]; // prettier-ignore

describe("I/O errors at every operation", () => {
  /** Two checkpoints, of which the third save keeps only one. */
  async function prepared(): Promise<{ model: ModelFileSystem; run: RunFolder }> {
    const model = new ModelFileSystem();
    const run = await openModel(model);
    for (const step of [10, 20]) await run.save(step, filling(step), { last: 2 });
    return { model, run };
  }
  const hiddenIn = async (model: ModelFileSystem): Promise<string[]> =>
    (await model.list(RUN)).map(({ name }) => name).filter((name) => name.startsWith(".") && !name.startsWith(".lock"));

  const cases = (["ENOSPC", "EIO"] as const).flatMap((code) => [[code, "once"], [code, "from then on"]] as const); // prettier-ignore
  it.each(cases)(
    "%s, %s: a typed error, older checkpoints as they were, nothing left, the next save works",
    async (code, duration) => {
      let [at, failures, prunings] = [0, 0, 0];
      for (let isThrough = false; !isThrough; at++) {
        const { model, run } = await prepared();
        let count = 0;
        let failedAt: Operation | null = null;
        model.hook = (operation, path, half) => {
          const isDue = count++ >= at && (failedAt === null || duration === "from then on");
          // A full disk still removes and reads.
          const isHit = code === "EIO" || ["makeFolder", "create", "write", "sync"].includes(operation);
          if (!isDue || !isHit) return;
          failedAt ??= operation;
          if (operation === "write") half();
          throw new FileError(`${path} (injected)`, code);
        };
        const result = await run.save(30, filling(30), { last: 1 }).catch((error: unknown) => error);
        isThrough = failedAt === null;
        model.hook = () => undefined;
        const where = `operation ${at}, ${failedAt}: ${String(result)}`;
        const { newest } = await run.newestVerified();
        if (result instanceof Error) {
          failures++;
          expect(result, where).toBeInstanceOf(SaveError);
          expect(result, where).toMatchObject({ step: 30, code });
          for (const step of [10, 20]) expect(await run.verify(step), where).toMatchObject({ verified: true });
          // If nothing can be removed any more, the folder may stay: hidden, or whole.
          if (duration === "once" || code === "ENOSPC") {
            expect(await hiddenIn(model), where).toEqual([]);
            expect(await run.list(), where).toEqual([10, 20]);
          }
        } else {
          expect(newest?.step, where).toBe(30);
          const { pruneProblem } = result as Awaited<ReturnType<RunFolder["save"]>>;
          expect(pruneProblem !== null, where).toBe(failedAt !== null);
          if (pruneProblem) expect(pruneProblem).toBeInstanceOf(RunFolderError);
          if (pruneProblem) prunings++;
        }
        for (const { verified } of await Promise.all((await run.list()).map((step) => run.verify(step))))
          expect(verified, where).toBe(true);
        await run.save(40, filling(40), { last: 1 });
        expect(await run.list(), where).toEqual([40]);
        expect(await hiddenIn(model), where).toEqual([]);
        expect(await run.verify(40), where).toMatchObject({ verified: true });
      }
      console.log(`${code} ${duration}: ${at - 1} operations, ${failures} saves failed, ${prunings} prunings`);
      expect(failures).toBeGreaterThan(10);
      if (code === "EIO") expect(prunings).toBeGreaterThan(5);
    },
  );

  it("the operations of a save are those that are thought of", async () => {
    const { model, run } = await prepared();
    const seen = new Set<Operation>();
    model.hook = (operation) => void seen.add(operation);
    await run.save(30, filling(30), { last: 1 });
    for (const operation of MUTATING) expect(seen).toContain(operation);
  });
});

describe(`SIGKILL while saving (seed ${SEED})`, () => {
  // The long form kills more than 200 times.
  const [LANES, KILLS] = isLong ? [4, 52] : [4, 12];
  it("the newest checkpoint that verifies is never older than the last acknowledged one", async () => {
    const script = compile("tests/run_crash_child.ts", join(temporary, "js"));
    const lanes = Array.from({ length: LANES }, (_, lane) =>
      killRepeatedly(script, join(temporary, `run${lane}`), KILLS, randomFrom(SEED + lane)),
    );
    const results = await Promise.all(lanes);
    const sum = (of: (kills: (typeof results)[number]) => number): number =>
      results.reduce((total, kills) => total + of(kills), 0);
    const violations = results.flatMap((kills) => kills.violations);
    const [kills, interrupted, acknowledged] = [
      sum((r) => r.kills),
      sum((r) => r.interrupted),
      sum((r) => r.acknowledged),
    ];
    console.log(
      `${kills} kills, ${interrupted} of them in the middle of a save, ${acknowledged} saves acknowledged, ${violations.length} violations`,
    );
    expect(violations).toEqual([]);
    expect(kills).toBe(LANES * KILLS);
    expect(interrupted).toBeGreaterThan(kills / 4);
  });
});
