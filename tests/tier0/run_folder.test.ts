/** The run folder on the real file system: the lock, saving, verifying, walking back, pruning. Crashes are run_crash.test.ts. */
import { spawnSync } from "node:child_process";
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { createHash } from "node:crypto";
import { afterAll, describe, expect, it, vi } from "vitest";
import type { FolderSink } from "../../model/io/bytes.ts";
import { ArgumentError } from "../../engine/errors.ts";
import { FileError } from "../../model/node/files.ts";
import { Checkpoints } from "../../train/node/run/checkpoints.ts";
import { RunFolderError, RunLockedError, SaveError, StepExistsError } from "../../train/node/run/errors.ts";
import { nodeFileSystem } from "../../train/node/run/file_system.ts";
import { isAlive } from "../../train/node/run/lock.ts";
import type { LockHolder } from "../../train/node/run/errors.ts";
import { encodeManifest, parseManifest, stepName, stepOf } from "../../train/node/run/manifest.ts";
import { RunFolder } from "../../train/node/run/run_folder.ts";
import { stepsToPrune } from "../../train/node/run/staged_folder.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-run-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
let count = 0;
const newPath = (): string => join(temporary, `run${count++}`);
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

const filling =
  (step: number) =>
  async (sink: FolderSink): Promise<void> => {
    const model: FolderSink = { write: (name, content) => sink.write(`model/${name}`, content) };
    await Promise.all([
      model.write("config.json", bytesOf("{}")),
      model.write("deep/weights.safetensors", async (file) => {
        const buffer = new Uint8Array(5_000_000);
        for (let i = 0; i < 2; i++) await file.write(buffer.fill(step + i)); // the same buffer twice
      }),
    ]);
    await sink.write("state.json", bytesOf(JSON.stringify({ step })));
  };

async function withSteps(steps: readonly number[]): Promise<{ path: string; run: RunFolder }> {
  const path = newPath();
  const run = await RunFolder.open(path, { create: true });
  for (const step of steps) await run.save(step, filling(step), { last: 99 });
  return { path, run };
}

describe("saving", () => {
  it("writes the files, nested too, and a manifest of their sizes and hashes, and leaves nothing hidden", async () => {
    const { path, run } = await withSteps([20]);
    const folder = join(path, "step-00000020");
    const weights = readFileSync(join(folder, "model/deep/weights.safetensors"));
    expect([weights.length, weights[0], weights[5_000_000]]).toEqual([10_000_000, 20, 21]);
    const { step, files } = parseManifest(readFileSync(join(folder, "MANIFEST.json")), "MANIFEST.json");
    expect([step, [...files.keys()]]).toEqual([
      20,
      ["model/config.json", "model/deep/weights.safetensors", "state.json"],
    ]);
    for (const [name, { bytes, sha256 }] of files) {
      const content = readFileSync(join(folder, name));
      expect([bytes, sha256]).toEqual([content.length, createHash("sha256").update(content).digest("hex")]);
    }
    expect(readdirSync(path).sort()).toEqual([".lock", "step-00000020"]);
    expect(await run.verify(20)).toEqual({
      step: 20,
      path: folder,
      verified: true,
      problems: [],
      bytes: 10_000_013,
      files: 3,
    });
    await run.close();
    expect(readdirSync(path)).toEqual(["step-00000020"]);
  });

  it("a step that is there and whole is refused and kept; one that is damaged is replaced", async () => {
    const { path, run } = await withSteps([1, 2]);
    const before = readFileSync(join(path, "step-00000001/state.json"), "utf8");
    let calls = 0;
    const fill = async (sink: FolderSink): Promise<void> => {
      calls++;
      await filling(1)(sink);
    };
    const error: unknown = await run.save(1, fill, { last: 1 }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(StepExistsError);
    expect((error as Error).message).toMatch(
      /step-00000001 exists and is valid.*remove the newer ones, or copy it to a new run folder/,
    );
    expect([calls, await run.list()]).toEqual([0, [1, 2]]);
    writeFileSync(join(path, "step-00000001/state.json"), `{"step":2}`);
    expect(await run.save(1, fill, { last: 1 })).toMatchObject({ bytes: 10_000_012 });
    expect([calls, readFileSync(join(path, "step-00000001/state.json"), "utf8")]).toEqual([1, before]);
    expect(await run.verify(1)).toMatchObject({ verified: true });
    expect(readdirSync(path).sort()).toEqual([".lock", "step-00000001", "step-00000002"]);
    await run.close();
  });

  it("a disk without room for what is to be written: a typed error before anything is", async () => {
    const { path, run } = await withSteps([1]);
    await run.close();
    const fileSystem = { ...nodeFileSystem, freeBytes: async (folder: string) => (folder === path ? 999 : Infinity) };
    const full = await RunFolder.open(path, { fileSystem });
    const room = await full.requireRoom(1000).catch((thrown: unknown) => thrown);
    expect(room).toBeInstanceOf(FileError);
    expect(room).toMatchObject({
      code: "ENOSPC",
      message: expect.stringMatching(/needs .* free; make room/) as string,
    });
    const never = (): Promise<void> => expect.fail("it is written");
    const error: unknown = await full.save(2, never, { last: 1 }, 1000).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SaveError);
    expect(error).toMatchObject({ code: "ENOSPC", step: 2 });
    expect([await full.list(), (await full.verify(1)).verified]).toEqual([[1], true]);
    await full.requireRoom(999);
    await full.save(2, filling(2), { last: 1 }, 999);
    expect(await full.list()).toEqual([2]);
    await full.close();
  });

  const wrong: [string, (sink: FolderSink) => Promise<void>, RegExp][] = [
    ["a path upwards", (sink) => sink.write("../x", bytesOf("x")), /not a path inside a checkpoint/],
    ["an absolute path", (sink) => sink.write("/x", bytesOf("x")), /not a path inside a checkpoint/],
    ["a hidden file", (sink) => sink.write("a/.x", bytesOf("x")), /not a path inside a checkpoint/],
    ["a backslash", (sink) => sink.write("a\\x", bytesOf("x")), /not a path inside a checkpoint/],
    ["the manifest", (sink) => sink.write("MANIFEST.json", bytesOf("x")), /written by the run folder itself/],
    ["a name twice", async (sink) => { await sink.write("a", bytesOf("x")); await sink.write("a", bytesOf("y")); }, /written twice/],
    ["a write that nobody awaits", async (sink) => void sink.write("a", bytesOf("x")).catch(() => undefined), /await every write/],
    ["an error that fill hides", async (sink) => { await sink.write("a", async () => { throw new ArgumentError("hidden"); }).catch(() => undefined); }, /^hidden$/],
  ]; // prettier-ignore
  it.each(wrong)("refuses %s, and nothing of the checkpoint is left", async (_, fill, message) => {
    const { path, run } = await withSteps([]);
    const error: unknown = await run.save(3, fill, { last: 1 }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ArgumentError);
    expect(String((error as Error).message)).toMatch(message);
    await run.save(4, filling(4), { last: 1 });
    expect(readdirSync(path).sort()).toEqual([".lock", "step-00000004"]);
    await run.close();
  });

  it("refuses steps and counts that are none, a second save at a time, and saving after close", async () => {
    const { run } = await withSteps([]);
    for (const step of [-1, 1.5, NaN])
      await expect(run.save(step, filling(1), { last: 1 })).rejects.toThrow(ArgumentError);
    for (const keep of [{ last: 0 }, { last: 1.5 }, { last: 1, every: 0 }])
      await expect(run.save(1, filling(1), keep)).rejects.toThrow(ArgumentError);
    const first = run.save(1, filling(1), { last: 1 });
    await expect(run.save(2, filling(2), { last: 1 })).rejects.toThrow(/another save has not ended/);
    await expect(run.close()).rejects.toThrow(/a save has not ended/);
    await first;
    await run.close();
    await run.close();
    await expect(run.save(2, filling(2), { last: 1 })).rejects.toThrow(/was closed/);
  });
});

describe("verifying", () => {
  const damages: [string, (folder: string) => void, RegExp][] = [
    ["a byte", (folder) => { const file = join(folder, "model/deep/weights.safetensors"); const bytes = readFileSync(file); bytes[9_000_000]! ^= 1; writeFileSync(file, bytes); }, /^model\/deep\/weights.safetensors: sha256 .*, the manifest says/],
    ["a size", (folder) => writeFileSync(join(folder, "state.json"), "{}"), /^state.json: 2 bytes, the manifest says 11/],
    ["a missing file", (folder) => rmSync(join(folder, "model/config.json")), /config.json: .*does not exist/],
    ["a missing manifest", (folder) => rmSync(join(folder, "MANIFEST.json")), /MANIFEST.json does not exist/],
    ["a torn manifest", (folder) => { const file = join(folder, "MANIFEST.json"); writeFileSync(file, readFileSync(file).subarray(0, 200)); }, /MANIFEST.json: /],
    ["another step's manifest", (folder) => { const { files } = parseManifest(readFileSync(join(folder, "MANIFEST.json")), ""); writeFileSync(join(folder, "MANIFEST.json"), encodeManifest({ step: 9, files })); }, /MANIFEST.json is of step 9/],
    ["a manifest that names a file outside", (folder) => { const file = join(folder, "MANIFEST.json"); writeFileSync(file, readFileSync(file, "utf8").replace("state.json", "../x")); }, /not a path inside/],
    ["a later version", (folder) => { const file = join(folder, "MANIFEST.json"); writeFileSync(file, readFileSync(file, "utf8").replace(`"version": 1`, `"version": 2`)); }, /version 2 is not known/],
  ]; // prettier-ignore
  it.each(damages)("sees %s, says so, and walks back", async (_, damage, message) => {
    const { path, run } = await withSteps([10, 20]);
    damage(join(path, "step-00000020"));
    const verdict = await run.verify(20);
    expect(verdict).toMatchObject({ verified: false, problems: [expect.stringMatching(message)] });
    const { newest, skipped } = await run.newestVerified();
    expect([newest?.step, skipped]).toEqual([10, [verdict]]);
    await run.close();
  });

  it("passes over files that the manifest does not name, and names that are no steps", async () => {
    const { path, run } = await withSteps([1]);
    writeFileSync(join(path, "step-00000001/.DS_Store"), "");
    for (const name of ["step-2", "step-000000003", "step-00000004x", "steps"]) mkdirSync(join(path, name));
    writeFileSync(join(path, "step-00000005"), "");
    expect(await run.list()).toEqual([1]);
    expect(await run.verify(1)).toMatchObject({ verified: true });
    expect([stepName(123456789), stepOf("step-123456789"), stepOf("step-0123456789")]).toEqual([
      "step-123456789",
      123456789,
      null,
    ]);
    await run.close();
  });

  it("needs no lock, and stops when it is told to, with the reason", async () => {
    const { path, run } = await withSteps([1]);
    const reader = new Checkpoints(path);
    const controller = new AbortController();
    const onProgress = (): void => controller.abort(new RunFolderError("enough"));
    await expect(reader.verify(1, { signal: controller.signal, onProgress })).rejects.toThrow("enough");
    await run.close();
  });
});

describe("pruning", () => {
  const cases: [string, number[], number[], number, { last: number; every?: number }, number[]][] = [
    ["the last one", [10, 20, 30], [10, 20, 30], 30, { last: 1 }, [20, 10]],
    ["the last two", [10, 20, 30], [10, 20, 30], 30, { last: 2 }, [10]],
    ["fewer than kept", [10, 20], [10, 20], 20, { last: 3 }, []],
    ["every 20th", [10, 20, 30, 40, 50], [10, 20, 30, 40, 50], 50, { last: 1, every: 20 }, [30, 10]],
    ["damaged ones do not count", [10, 20, 30], [10], 30, { last: 2 }, []],
    ["damaged ones go when old", [10, 20, 30], [20], 30, { last: 2 }, [10]],
    ["newer ones are left alone", [10, 20, 50], [10, 20, 50], 20, { last: 1 }, [10]],
  ];
  it.each(cases)("%s", (_, steps, whole, saved, keep, gone) => {
    expect(stepsToPrune(steps, new Set(whole), saved, keep)).toEqual(gone);
  });

  it("removes what is not kept, follows no links, and keeps a whole one rather than a damaged one", async () => {
    const { path, run } = await withSteps([10, 20, 30]);
    const outside = join(temporary, "outside");
    mkdirSync(outside);
    writeFileSync(join(outside, "precious"), "");
    symlinkSync(outside, join(path, "step-00000010/link"));
    rmSync(join(path, "step-00000030/state.json"));
    expect(await run.save(40, filling(40), { last: 2 })).toMatchObject({ pruned: [10], pruneProblem: null });
    expect(await run.list()).toEqual([20, 30, 40]);
    expect(existsSync(join(outside, "precious"))).toBe(true);
    await run.close();
  });
});

describe("the lock", () => {
  const holderIn = (path: string): LockHolder =>
    JSON.parse(readFileSync(join(path, ".lock/holder.json"), "utf8")) as LockHolder;
  const setHolder = (path: string, change: Partial<LockHolder>): void => {
    const holder: LockHolder = {
      pid: process.pid,
      host: hostname(),
      started: "2026-01-01T00:00:00.000Z",
      token: "00ff",
      processStart: null,
      ...unknown,
    };
    mkdirSync(join(path, ".lock"), { recursive: true });
    writeFileSync(join(path, ".lock/holder.json"), JSON.stringify({ ...holder, ...change }));
  };
  const unknown = { bootId: null, pidNamespace: null, heartbeatMs: 0, socket: null };
  const deadPid = (): number => spawnSync(process.execPath, ["-e", ""]).pid;

  it("a second trainer is refused, with the holder named, and has it after the first has closed", async () => {
    const { path, run } = await withSteps([]);
    const error: unknown = await RunFolder.open(path).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(RunLockedError);
    expect((error as RunLockedError).holder).toMatchObject({ pid: process.pid, host: hostname() });
    expect((error as Error).message).toMatch(
      new RegExp(`another trainer has this run folder \\(process ${process.pid} on `),
    );
    expect(readdirSync(path)).toEqual([".lock"]);
    await run.close();
    await using next = await RunFolder.open(path);
    expect(holderIn(path).pid).toBe(process.pid);
    expect(await next.list()).toEqual([]);
  });

  it("of ten at once one has it", async () => {
    const path = newPath();
    for (const dead of [false, true]) {
      if (dead) setHolder(path, { pid: deadPid() });
      const opened = await Promise.allSettled(Array.from({ length: 10 }, () => RunFolder.open(path, { create: true })));
      const won = opened.filter((result) => result.status === "fulfilled");
      expect(won.length).toBe(1);
      for (const result of opened)
        if (result.status === "rejected") expect(result.reason).toBeInstanceOf(RunLockedError);
      await won[0]!.value.close();
    }
  });

  it.skipIf(process.platform !== "linux")(
    "is taken over from a process that is gone, or whose number another one has, with a notice",
    async () => {
      const path = newPath();
      for (const change of [{ pid: deadPid() }, { pid: process.pid, processStart: "1", token: "01fe" }]) {
        setHolder(path, change);
        mkdirSync(join(path, ".saving-step-00000007-abc/model"), { recursive: true });
        mkdirSync(join(path, ".removing-step-00000007-abc"));
        const notices: string[] = [];
        const run = await RunFolder.open(path, { onNotice: (notice) => notices.push(notice) });
        expect(notices[0]).toMatch(/is gone; this one takes over its lock/);
        expect(notices.slice(1).join()).toMatch(/left by an interrupted save/);
        expect(readdirSync(path).filter((name) => !name.startsWith(".lock"))).toEqual([]);
        await run.close();
      }
      await (await RunFolder.open(path)).close();
      expect(readdirSync(path)).toEqual([]);
    },
  );

  it("is not taken over from another host, nor where it cannot be read; both say what to remove", async () => {
    const path = newPath();
    setHolder(path, { host: "elsewhere", pid: deadPid() });
    await expect(RunFolder.open(path)).rejects.toThrow(
      /on elsewhere.*if that machine no longer runs it, remove .*\.lock/,
    );
    writeFileSync(join(path, ".lock/holder.json"), "{");
    await expect(RunFolder.open(path)).rejects.toThrow(/cannot be read.*if no trainer runs in this folder, remove it/);
    expect(readdirSync(path)).toEqual([".lock"]);
  });

  /** A trainer of this host's name in another PID namespace, where its number means nothing here. */
  const inContainer = { pid: 2 ** 22 + 1, pidNamespace: "pid:[1]", heartbeatMs: 20 };

  it("is not taken over from another PID namespace while its heartbeat changes", async () => {
    const path = newPath();
    setHolder(path, inContainer);
    let beat = 0;
    const timer = setInterval(() => writeFileSync(join(path, `.lock/beat-${++beat}`), ""), 20);
    const notices: string[] = [];
    await expect(RunFolder.open(path, { onNotice: (notice) => notices.push(notice) })).rejects.toThrow(RunLockedError);
    clearInterval(timer);
    expect(notices).toEqual([expect.stringMatching(/in another container.*waiting up to 1 s for its heartbeat/)]);
    expect(holderIn(path).token).toBe("00ff");
  });

  it.each([
    ["another PID namespace", inContainer],
    ["another start of the machine", { ...inContainer, pidNamespace: null, bootId: "earlier" }],
  ])("is taken over from %s once the heartbeat is missing", async (_, change) => {
    const path = newPath();
    setHolder(path, change);
    const notices: string[] = [];
    const run = await RunFolder.open(path, { onNotice: (notice) => notices.push(notice) });
    expect(notices[1]).toMatch(/is gone; this one takes over its lock/);
    await run.close();
  });

  it.skipIf(process.platform !== "linux")(
    "is known at once to be held or stale if its holder was on this machine, also from another PID namespace",
    async () => {
      const path = join(newPath(), "a".repeat(150)); // longer than a socket's address
      const run = await RunFolder.open(path, { create: true });
      const { bootId, socket, token } = holderIn(path);
      const there = { ...inContainer, bootId, socket };
      setHolder(path, there);
      const notices: string[] = [];
      const onNotice = (notice: string): void => void notices.push(notice);
      await expect(RunFolder.open(path, { onNotice })).rejects.toThrow(RunLockedError);
      expect(notices).toEqual([]);
      linkSync(join(path, ".lock/alive"), join(path, "kept")); // what a killed process leaves
      setHolder(path, { token });
      await run.close();
      mkdirSync(join(path, ".lock"), { recursive: true });
      renameSync(join(path, "kept"), join(path, ".lock/alive"));
      setHolder(path, there);
      const next = await RunFolder.open(path, { onNotice });
      expect(notices).toEqual([expect.stringMatching(/is gone; this one takes over its lock/)]);
      await next.close();
      // A socket on another mount says nothing.
      setHolder(path, { ...there, socket: "1:1", token: "01fe" });
      await (await RunFolder.open(path, { onNotice })).close();
      expect(notices[1]).toMatch(/waiting up to 1 s for its heartbeat/);
    },
  );

  it("is not taken over from another PID namespace without a heartbeat: there is no knowing", async () => {
    const path = newPath();
    setHolder(path, { ...inContainer, heartbeatMs: 0 });
    await expect(RunFolder.open(path)).rejects.toThrow(RunLockedError);
  });

  it("has a heartbeat while it is held, of one file", async () => {
    const path = newPath();
    const run = await RunFolder.open(path, { create: true, heartbeatMs: 5 });
    const beats = (): string[] => readdirSync(join(path, ".lock")).filter((name) => name.startsWith("beat-"));
    await vi.waitFor(() => expect(Number(beats()[0]?.slice(5))).toBeGreaterThan(2), { timeout: 60_000 });
    expect(beats().length).toBeLessThanOrEqual(2);
    await run.close();
    expect(readdirSync(path)).toEqual([]);
  });

  it("that another trainer has taken over ends the saves of the first", async () => {
    const { path, run } = await withSteps([]);
    setHolder(path, { token: "beef" });
    await expect(run.save(1, async () => undefined, { last: 1 })).rejects.toThrow(RunLockedError);
    expect(readdirSync(path)).toEqual([".lock"]);
  });

  it("a close leaves a lock alone that is no longer its own", async () => {
    const { path, run } = await withSteps([]);
    rmSync(join(path, ".lock"), { recursive: true });
    setHolder(path, { host: "elsewhere" });
    await run.close();
    expect(holderIn(path).host).toBe("elsewhere");
  });

  it("tells the living from the dead", () => {
    const holder = { host: hostname(), started: "", token: "a", processStart: null, ...unknown };
    expect(isAlive({ ...holder, pid: process.pid })).toBe(true);
    expect(isAlive({ ...holder, pid: 1 })).toBe(true); // another user's
    expect(isAlive({ ...holder, pid: deadPid() })).toBe(false);
  });

  it("a folder that is not there is made only where that was asked, and a file is none", async () => {
    const path = join(newPath(), "a/b");
    await expect(RunFolder.open(path)).rejects.toThrow(/there is no run folder/);
    await (await RunFolder.open(path, { create: true })).close();
    writeFileSync(join(path, "file"), "");
    await expect(RunFolder.open(join(path, "file"), { create: true })).rejects.toThrow(/is not a folder/);
  });
});
