/**
 * The folder of a training run, held by one trainer: `step-00000020/` for each checkpoint, with a manifest of sizes and
 * hashes. A checkpoint is either complete or absent, even after kills and power failures, and no older one is removed
 * before the new one is durable. Reading alone is `Checkpoints`. The trainer manages its other files (logs, reports).
 */
import { dirname, join, resolve } from "node:path";
import { requireRoom } from "../../../model/node/files.ts";
import { Checkpoints } from "./checkpoints.ts";
import { RunFolderError, SaveError, StepExistsError, systemCode } from "./errors.ts";
import { makeFolders, nodeFileSystem, removeTree } from "./file_system.ts";
import type { FileSystem } from "./file_system.ts";
import { LOCK_LEFTOVER, RunLock } from "./lock.ts";
import type { LockHolder } from "./errors.ts";
import { requireStep, stepName } from "./manifest.ts";
import { StagedFolder, hide, isLeftover, prune, requireKeep, stepsToPrune } from "./staged_folder.ts";
import type { Keep } from "./staged_folder.ts";
import { messageOf } from "../../../engine/errors.ts";

export interface OpenRunOptions {
  /** Makes the folder if it is not there yet. */
  readonly create?: boolean;
  /** Called for a lock taken over, and for leftovers that were removed or could not be. */
  readonly onNotice?: (message: string) => void;
  readonly fileSystem?: FileSystem;
  /** Returns whether the process of a lock still runs; null if unknown (default: ask the system). */
  readonly isAlive?: (holder: LockHolder) => boolean | null;
  /** Time between heartbeats of the lock; 0 for none (default: 5000). */
  readonly heartbeatMs?: number;
  /** Ends the wait for another trainer's heartbeat. */
  readonly signal?: AbortSignal;
  /** Another process of the same training holds the folder, and alone saves: this one only reads. */
  readonly isFollower?: boolean;
}

export interface Saved {
  readonly step: number;
  readonly path: string;
  /** Bytes of all its files, without the manifest. */
  readonly bytes: number;
  /** Steps whose checkpoints were removed. */
  readonly pruned: readonly number[];
  /** Why the pruning did not end; the new checkpoint is saved all the same, and the next save takes it up again. */
  readonly pruneProblem: RunFolderError | null;
}

/** The folder of a training run, held by one trainer: saves checkpoints, each of which is complete or absent, and prunes them. */
export class RunFolder extends Checkpoints {
  /** Null in a process that only reads. */
  private readonly lock: RunLock | null;
  private readonly onNotice: (message: string) => void;
  private isSaving = false;
  private isClosed = false;

  private constructor(path: string, fileSystem: FileSystem, lock: RunLock | null, onNotice: (message: string) => void) {
    super(path, fileSystem);
    this.lock = lock;
    this.onNotice = onNotice;
  }

  /**
   * Takes the folder, makes the checkpoints in it durable and removes what crashed saves have left. Throws `RunLockedError`, naming the holder, when
   * another trainer has it, and `RunFolderError` when it is not there. The lock of a process of this host that is gone is taken over, with a notice; that
   * of a process in another container once its heartbeat has been missing for a minute.
   */
  static async open(path: string, options: OpenRunOptions = {}): Promise<RunFolder> {
    const { fileSystem = nodeFileSystem, onNotice = () => undefined } = options;
    const run = resolve(path);
    const kind = await fileSystem.kind(run);
    if (kind !== null && kind !== "folder") throw new RunFolderError(`${run} is not a folder; name another one`);
    if (kind === null && !options.create)
      throw new RunFolderError(`there is no run folder ${run}; name the folder of a training run`);
    if (options.isFollower) return new RunFolder(run, fileSystem, null, onNotice);
    if (kind === null) await makeFolders(fileSystem, run, dirname);
    const lock = await RunLock.take(fileSystem, run, { ...options, onNotice });
    const folder = new RunFolder(run, fileSystem, lock, onNotice);
    try {
      // The newest may be the work of a process that ended right after its rename; from here on it is durable.
      await fileSystem.syncFolder(run);
    } catch (error) {
      await lock.release();
      throw error;
    }
    try {
      const isOld = (name: string): boolean => name.startsWith(LOCK_LEFTOVER) && join(run, name) !== lock.stale;
      await folder.removeLeftovers((name) => isLeftover(name) || isOld(name));
    } catch (error) {
      onNotice(`${run}: leftovers of an earlier run could not all be removed: ${messageOf(error)}`);
    }
    return folder;
  }

  /** Throws `FileError` (ENOSPC) when the disk has no room for `bytes` more. */
  requireRoom(bytes: number): Promise<void> {
    return requireRoom(this.path, bytes, `a checkpoint in ${this.path}`, (path) => this.fileSystem.freeBytes(path));
  }

  /**
   * Saves a checkpoint: `fill` writes its files, about `bytes` together. When this returns, the checkpoint is durable, and what `keep` does not keep
   * of the older ones has been removed. Throws `SaveError` for a full disk (also one that has less than `bytes` free: then nothing is written)
   * or an I/O error, `RunLockedError` if another trainer has taken the folder over, `StepExistsError` for a step that
   * already has a valid checkpoint, and any error of `fill`; then no part of it remains, and the other checkpoints are
   * unchanged. A checkpoint of the step that does not verify is replaced.
   */
  async save(step: number, fill: (staged: StagedFolder) => Promise<void>, keep: Keep, bytes = 0): Promise<Saved> {
    requireStep(step);
    requireKeep(keep);
    if (this.isClosed) throw new RunFolderError(`${this.path} was closed; open it again before saving step ${step}`);
    if (this.isSaving)
      throw new RunFolderError(`${this.path}: another save has not ended; await it before saving step ${step}`);
    this.isSaving = true;
    try {
      return await this.saveAlone(step, fill, keep, bytes);
    } finally {
      this.isSaving = false;
    }
  }

  /** The folder `path` that another process of this training fills for a step, to write some of its files. */
  staged(step: number, path: string): StagedFolder {
    return new StagedFolder(this.fileSystem, this.path, step, path);
  }

  /** Releases the folder. No save may be in progress. */
  async close(): Promise<void> {
    if (this.isSaving) throw new RunFolderError(`${this.path}: a save has not ended; await it before closing`);
    if (this.isClosed) return;
    this.isClosed = true;
    await this.lock?.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private async saveAlone(
    step: number,
    fill: (staged: StagedFolder) => Promise<void>,
    keep: Keep,
    planned: number,
  ): Promise<Saved> {
    const staged = new StagedFolder(this.fileSystem, this.path, step);
    let damaged: string | null = null;
    try {
      if (!this.lock)
        throw new RunFolderError(`${this.path}: another process of this training saves; call save in rank 0`);
      await this.lock.requireHeld();
      await this.removeLeftovers(isLeftover);
      const isThere = (await this.fileSystem.kind(this.folder(step))) !== null;
      const verdict = isThere ? await this.verify(step) : null;
      if (verdict?.verified)
        throw new StepExistsError(
          `${verdict.path} exists and is valid; it is kept. A run resumes from its newest checkpoint: to resume from an older one, remove the newer ones, or copy it to a new run folder`,
          step,
        );
      await this.requireRoom(planned);
      await staged.create();
      await fill(staged);
      await staged.syncFolders();
      await staged.writeManifest();
      if (verdict) {
        damaged = await hide(this.fileSystem, this.path, step);
        this.onNotice(`${verdict.path} was damaged and is replaced: ${verdict.problems.join("; ")}`);
      }
      await staged.publish();
    } catch (error) {
      throw await this.failed(staged, error);
    }
    const bytes = [...staged.files.values()].reduce((sum, file) => sum + file.bytes, 0);
    const done = { step, path: this.folder(step), bytes };
    try {
      const pruned = await this.prune(step, keep);
      if (damaged) await removeTree(this.fileSystem, damaged);
      return { ...done, pruned, pruneProblem: null };
    } catch (error) {
      const pruneProblem = new RunFolderError(
        `${this.path}: step ${step} is saved, but older checkpoints could not be removed: ${messageOf(error)}. The next save tries again`,
      );
      pruneProblem.cause = error;
      return { ...done, pruned: [], pruneProblem };
    }
  }

  /** Removes what there is of the checkpoint; returns the error to throw. */
  private async failed(staged: StagedFolder, error: unknown): Promise<unknown> {
    const left = await staged.discard().then(() => "", (problem: unknown) => `; its files could not be removed (${messageOf(problem)}); the next save tries again`); // prettier-ignore
    const code = systemCode(error);
    if (code === null) {
      if (left) this.onNotice(`${this.path}: ${stepName(staged.step)} was not saved${left}`);
      return error;
    }
    const isFull = code === "ENOSPC" || code === "EDQUOT";
    const todo = isFull ? "free some space and save again" : "check the disk and save again";
    return new SaveError(
      `step ${staged.step} could not be saved: ${messageOf(error)}; earlier checkpoints are unchanged; ${todo}${left}`,
      staged.step,
      code,
      error,
    );
  }

  private async prune(saved: number, keep: Keep): Promise<number[]> {
    const steps = await this.list();
    const whole = new Set<number>();
    for (const step of steps.filter((other) => other < saved).reverse()) {
      if (whole.size === keep.last - 1) break;
      if ((await this.verify(step, { hashes: false })).verified) whole.add(step);
    }
    const old = stepsToPrune(steps, whole, saved, keep);
    await prune(this.fileSystem, this.path, old);
    return old;
  }

  private async removeLeftovers(isOne: (name: string) => boolean): Promise<void> {
    for (const { name, kind } of await this.fileSystem.list(this.path)) {
      if (kind !== "folder" || !isOne(name)) continue;
      await removeTree(this.fileSystem, join(this.path, name));
      if (isLeftover(name)) this.onNotice(`${join(this.path, name)}, left by an interrupted save, was removed`);
    }
  }
}
