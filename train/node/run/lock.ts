/**
 * The lock of a run folder: `.lock/holder.json` says which process has it. The folder is filled under another name and then renamed, which
 * fails if there is a lock: a lock is never seen half-written, and no more than that is needed of the file system. The lock of a dead process
 * is moved to a name made of its token, which only one of several that saw it dead can do; that name stays until the next trainer.
 */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { readWhole } from "../../../model/io/bytes.ts";
import { parseJsonObject } from "../../../model/io/json.ts";
import { FileError } from "../../../model/node/files.ts";
import { RunFolderError, RunLockedError } from "./errors.ts";
import { removeTree, writeSynced } from "./file_system.ts";
import type { FileSystem } from "./file_system.ts";
import { messageOf } from "../../../engine/errors.ts";

const LOCK = ".lock";
const HOLDER = "holder.json";
/** Prefix of folders that are only of use while a lock is taken. */
export const LOCK_LEFTOVER = ".lock-";
const ATTEMPTS = 5;

export interface LockHolder {
  readonly pid: number;
  readonly host: string;
  /** When it took the lock, ISO 8601. */
  readonly started: string;
  /** Distinguishes this lock from every other. */
  readonly token: string;
  /** When the process began, as Linux counts; null elsewhere. Distinguishes a process from a later one of the same number. */
  readonly processStart: string | null;
}

/** State and start of a process as Linux reports them; null elsewhere and for a process that is gone. */
function processStat(pid: number): { state: string; start: string } | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // the name before it may hold anything
    return fields[0] && fields[19] ? { state: fields[0], start: fields[19] } : null;
  } catch {
    return null;
  }
}

/** Whether a holder may still run. On another host there is no telling, so it may. */
export function isAlive({ pid, host, processStart }: LockHolder): boolean {
  if (host !== hostname()) return true;
  try {
    process.kill(pid, 0);
  } catch (error) {
    return !(error instanceof Error && "code" in error && error.code === "ESRCH");
  }
  const stat = processStat(pid);
  if (!stat) return true;
  return !/[ZX]/.test(stat.state) && (processStart === null || processStart === stat.start);
}

export interface LockOptions {
  readonly onNotice?: (message: string) => void;
  /** Instead of asking the system. */
  readonly isAlive?: (holder: LockHolder) => boolean;
}

export class RunLock {
  readonly holder: LockHolder;
  /** Path to which a dead process's lock was moved. */
  readonly stale: string | null;
  private readonly files: FileSystem;
  private readonly run: string;

  private constructor(files: FileSystem, run: string, holder: LockHolder, stale: string | null) {
    this.files = files;
    this.run = run;
    this.holder = holder;
    this.stale = stale;
  }

  /** Throws `RunLockedError` when another trainer has the folder. */
  static async take(files: FileSystem, run: string, options: LockOptions = {}): Promise<RunLock> {
    const alive = options.isAlive ?? isAlive;
    const holder: LockHolder = {
      pid: process.pid,
      host: hostname(),
      started: new Date().toISOString(),
      token: randomUUID(),
      processStart: processStat(process.pid)?.start ?? null,
    };
    const lock = join(run, LOCK);
    const prepared = join(run, `${LOCK_LEFTOVER}${holder.token}`);
    let stale: string | null = null;
    try {
      await files.makeFolder(prepared);
      const text = new TextEncoder().encode(`${JSON.stringify(holder)}\n`);
      await writeSynced(files, join(prepared, HOLDER), (file) => file.write(text));
      for (let attempt = 1; ; attempt++) {
        const refused = await files.rename(prepared, lock).then(
          () => null,
          (error: unknown) => (error instanceof Error ? error : new RunFolderError(String(error))),
        );
        if (refused === null) return new RunLock(files, run, holder, stale);
        const other = await readHolder(files, lock);
        if (other && alive(other)) throw lockedError(run, other);
        if (attempt === ATTEMPTS) throw other ? stuckError(lock, other) : refused;
        if (!other) continue; // released in between
        const moved = join(run, `${LOCK_LEFTOVER}stale-${other.token}`);
        const isMine = await files.rename(lock, moved).then(() => true, () => false); // prettier-ignore
        if (isMine) {
          stale = moved;
          options.onNotice?.(
            `${run}: the trainer that had it (process ${other.pid}, since ${other.started}) is gone; its lock is taken over`,
          );
        }
      }
    } catch (error) {
      await removeTree(files, prepared).catch(() => undefined);
      throw error;
    }
  }

  /** Gives the folder back. A lock that is no longer this one's is left alone. */
  async release(): Promise<void> {
    const lock = join(this.run, LOCK);
    const held = await readHolder(this.files, lock).catch(() => null);
    if (held?.token !== this.holder.token) return;
    const moved = join(this.run, `${LOCK_LEFTOVER}${this.holder.token}`);
    await this.files.rename(lock, moved);
    await removeTree(this.files, moved);
  }
}

function lockedError(run: string, holder: LockHolder): RunLockedError {
  const who = `process ${holder.pid} on ${holder.host}, since ${holder.started}`;
  const todo =
    holder.host === hostname()
      ? "stop it, or train in another folder"
      : `if that machine no longer runs it, remove ${join(run, LOCK)}; else train in another folder`;
  return new RunLockedError(`${run}: another trainer has it (${who}); ${todo}`, holder);
}

const stuckError = (lock: string, { pid }: LockHolder): RunFolderError =>
  new RunFolderError(
    `${lock} of process ${pid}, which is gone, cannot be taken over; if no trainer runs in this folder, remove it`,
  );

/** Null if there is no lock. */
async function readHolder(files: FileSystem, lock: string): Promise<LockHolder | null> {
  const path = join(lock, HOLDER);
  try {
    const file = await files.open(path);
    try {
      const json = parseJsonObject(await readWhole(file, 4096), path);
      const [pid, host, started, token] = [json.get("pid"), json.get("host"), json.get("started"), json.get("token")];
      const start = json.get("processStart");
      if (
        !Number.isSafeInteger(pid) ||
        typeof host !== "string" ||
        typeof started !== "string" ||
        typeof token !== "string" ||
        !/^[0-9a-f-]+$/.test(token)
      )
        // prettier-ignore
        throw new RunFolderError(`${path}: pid, host, started or token is missing`);
      return { pid: pid as number, host, started, token, processStart: typeof start === "string" ? start : null };
    } finally {
      await file.close?.();
    }
  } catch (error) {
    if (error instanceof FileError && (error.code === "ENOENT" || error.code === "ENOTDIR")) return null;
    throw new RunFolderError(
      `${lock} cannot be read (${messageOf(error)}); if no trainer runs in this folder, remove it and start again`,
    );
  }
}
