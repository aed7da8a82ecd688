/**
 * The lock of a run folder: `.lock/holder.json` says which process has it. The folder is filled under another name and then renamed, which
 * fails if there is a lock: a lock is never seen half-written, and no more than that is needed of the file system. The lock of a dead process
 * is moved to a name made of its token, which only one of several that saw it dead can do; that name stays until the next trainer. A holder whose
 * number means nothing here (in another container) is asked at its socket. If that is impossible (this machine before it was started again) it is alive while its heartbeat, a file
 * `beat-N` beside holder.json, changes. A file's times are no heartbeat: clocks differ, and network disks keep their own.
 */
import { randomUUID } from "node:crypto";
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { now } from "../../../engine/index.ts";
import { readWhole } from "../../../model/io/bytes.ts";
import { parseJsonObject } from "../../../model/io/json.ts";
import { FileError } from "../../../model/node/files.ts";
import { RunFolderError, RunLockedError } from "./errors.ts";
import type { LockHolder } from "./errors.ts";
import { nodeFileSystem, removeTree, writeSynced } from "./file_system.ts";
import { LockSocket, hasListener } from "./lock_socket.ts";
import type { FileSystem } from "./file_system.ts";
import { messageOf } from "../../../engine/errors.ts";

const LOCK = ".lock";
const HOLDER = "holder.json";
/** Prefix of folders that are only of use while a lock is taken. */
export const LOCK_LEFTOVER = ".lock-";
/** Prefix of those to which the locks of dead processes were moved. */
export const LOCK_STALE = `${LOCK_LEFTOVER}stale-`;
const ATTEMPTS = 5;
const BEAT = "beat-";
const HEARTBEAT_MS = 5000;
/** Missing heartbeats after which a trainer counts as ended: a step on software Vulkan may block its process for 20 s. */
const SILENT_BEATS = 12;

function textOf(read: () => string): string | null {
  try {
    return read().trim();
  } catch {
    return null; // not Linux
  }
}

const bootId = (): string | null => textOf(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8"));
const pidNamespace = (): string | null => textOf(() => readlinkSync("/proc/self/ns/pid"));

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

/** Returns whether a holder may still run; always true on another host. Null: on this host, but its process cannot be checked. */
export function isAlive({ pid, host, processStart, ...holder }: LockHolder): boolean | null {
  if (host !== hostname()) return true;
  const isElsewhere = (theirs: string | null, ours: string | null): boolean => theirs !== null && theirs !== ours;
  if (isElsewhere(holder.bootId, bootId()) || isElsewhere(holder.pidNamespace, pidNamespace())) return null;
  try {
    process.kill(pid, 0);
  } catch (error) {
    return !(error instanceof Error && "code" in error && error.code === "ESRCH");
  }
  const stat = processStat(pid);
  if (!stat) return true;
  return !/[ZX]/.test(stat.state) && (processStart === null || processStart === stat.start);
}

/** How messages name who has a lock, and what to do about it. */
export interface LockWords {
  /** E.g. "trainer". */
  readonly holder: string;
  /** E.g. "run folder". */
  readonly folder: string;
  /** E.g. "train in another folder". */
  readonly instead: string;
}

const TRAINER: LockWords = { holder: "trainer", folder: "run folder", instead: "train in another folder" };

export interface LockOptions {
  readonly words?: LockWords;
  /** Name of the lock's folder (default: .lock): locks of different names do not exclude each other. */
  readonly name?: string;
  readonly onNotice?: (message: string) => void;
  /** Instead of asking the system. */
  readonly isAlive?: (holder: LockHolder) => boolean | null;
  /** Time between heartbeats; 0 for none (default: 5000). */
  readonly heartbeatMs?: number;
  /** Ends the wait for the heartbeat of another trainer. */
  readonly signal?: AbortSignal;
}

interface Taken {
  readonly holder: LockHolder;
  readonly stale: string | null;
  readonly socket: LockSocket | null;
}

export class RunLock {
  readonly holder: LockHolder;
  /** Path to which a dead process's lock was moved. */
  readonly stale: string | null;
  private readonly files: FileSystem;
  private readonly run: string;
  private readonly timer: NodeJS.Timeout | undefined;
  private beats = 0;
  /** The beat that is being written. */
  private beating: Promise<void> = Promise.resolve();
  private readonly socket: LockSocket | null;
  private readonly path: string;
  private readonly words: LockWords;

  private constructor(files: FileSystem, run: string, { holder, stale, socket }: Taken, options: LockOptions) {
    this.files = files;
    this.socket = socket;
    this.run = run;
    this.path = lockPath(run, options);
    this.words = options.words ?? TRAINER;
    this.holder = holder;
    this.stale = stale;
    if (holder.heartbeatMs === 0) return;
    this.timer = setInterval(() => {
      this.beating = this.beating.then(() => this.beat());
    }, holder.heartbeatMs);
    this.timer.unref();
  }

  /** Throws `RunLockedError` when another trainer has the folder. */
  static async take(files: FileSystem, run: string, options: LockOptions = {}): Promise<RunLock> {
    const alive = options.isAlive ?? isAlive;
    const words = options.words ?? TRAINER;
    const token = randomUUID();
    const lock = lockPath(run, options);
    const prepared = join(run, `${LOCK_LEFTOVER}${token}`);
    let stale: string | null = null;
    let socket: LockSocket | null = null;
    try {
      await files.makeFolder(prepared);
      if (files === nodeFileSystem) socket = await LockSocket.open(prepared);
      const holder = holderHere(token, {
        heartbeatMs: options.heartbeatMs ?? HEARTBEAT_MS,
        socket: socket?.id ?? null,
      });
      const text = new TextEncoder().encode(`${JSON.stringify(holder)}\n`);
      await writeSynced(files, join(prepared, HOLDER), (file) => file.write(text));
      for (let attempt = 1; ; attempt++) {
        const refused = await files.rename(prepared, lock).then(
          () => null,
          (error: unknown) => (error instanceof Error ? error : new RunFolderError(String(error))),
        );
        if (refused === null) return new RunLock(files, run, { holder, stale, socket }, options);
        const other = await readHolder(files, lock, words);
        const isHeld = other && (alive(other) ?? (await answers(lock, other)) ?? (await hasHeartbeat(files, run, other, options))); // prettier-ignore
        if (isHeld) throw lockedError(run, other, options);
        if (attempt === ATTEMPTS) throw other ? stuckError(lock, other, words) : refused;
        if (!other || (await readHolder(files, lock, words))?.token !== other.token) continue; // released in between
        const moved = join(run, `${LOCK_STALE}${other.token}`);
        const isMine = await files.rename(lock, moved).then(() => true, () => false); // prettier-ignore
        if (isMine) {
          stale = moved;
          options.onNotice?.(
            `${run}: the ${words.holder} that had this ${words.folder} (process ${other.pid}, since ${other.started}) is gone; this one takes over its lock`,
          );
        }
      }
    } catch (error) {
      await socket?.close();
      await removeTree(files, prepared).catch(() => undefined);
      throw error;
    }
  }

  /** Throws `RunLockedError` if another trainer has taken the folder over: this process was stopped for so long that it seemed dead. */
  async requireHeld(): Promise<void> {
    if (this.holder.heartbeatMs === 0) return; // a lock without a heartbeat is never taken over
    const held = await readHolder(this.files, this.path, this.words).catch(() => null);
    if (held !== null && held.token !== this.holder.token) throw lockedError(this.run, held, { words: this.words });
  }

  /** Releases the folder. A lock that is no longer this one's is left alone. */
  async release(): Promise<void> {
    clearInterval(this.timer);
    await this.beating;
    const lock = this.path;
    const held = await readHolder(this.files, lock, this.words).catch(() => null);
    try {
      if (held?.token !== this.holder.token) return;
      const moved = join(this.run, `${LOCK_LEFTOVER}${this.holder.token}`);
      await this.files.rename(lock, moved);
      await removeTree(this.files, moved);
    } finally {
      await this.socket?.close();
    }
  }

  /** Replaces the file of the last beat by the next one. A lock that has been taken over has no place for it. */
  private async beat(): Promise<void> {
    const path = (beat: number): string => join(this.path, `${BEAT}${beat}`);
    try {
      await (await this.files.create(path(this.beats + 1))).close();
      if (this.beats++ > 0) await this.files.removeFile(path(this.beats - 1));
    } catch {
      // A disk that is full or away for a while: the next beat may pass.
    }
  }
}

const lockPath = (run: string, { name = LOCK }: LockOptions): string => join(run, name);

/** This process as the holder of a lock. */
const holderHere = (token: string, lock: Pick<LockHolder, "heartbeatMs" | "socket">): LockHolder => ({
  pid: process.pid,
  host: hostname(),
  started: new Date().toISOString(),
  token,
  processStart: processStat(process.pid)?.start ?? null,
  bootId: bootId(),
  pidNamespace: pidNamespace(),
  ...lock,
});

/** Whether a holder answers at its socket; null if that cannot be known, as on another start of the machine. */
async function answers(lock: string, { socket, bootId: theirs }: LockHolder): Promise<boolean | null> {
  const isHere = socket !== null && theirs !== null && theirs === bootId();
  return isHere ? await hasListener(lock, socket).catch(() => null) : null;
}

/** Waits for the next heartbeat of a holder. False if none came in time, or the lock was released. */
async function hasHeartbeat(
  files: FileSystem,
  run: string,
  holder: LockHolder,
  options: LockOptions,
): Promise<boolean> {
  const lock = lockPath(run, options);
  const words = options.words ?? TRAINER;
  const beatsOf = async (): Promise<string> => {
    const names = await files.list(lock).then((entries) => entries.map(({ name }) => name), () => []); // prettier-ignore
    return names.filter((name) => name.startsWith(BEAT)).sort().join(); // prettier-ignore
  };
  const { heartbeatMs } = holder;
  if (heartbeatMs === 0) return true; // it cannot be known
  const silence = SILENT_BEATS * heartbeatMs;
  const before = await beatsOf();
  options.onNotice?.(
    `${run}: a ${words.holder} in another container, or from before a restart of this machine, has this ${words.folder} (process ${holder.pid}, since ${holder.started}); waiting up to ${Math.ceil(silence / 1000)} s for its heartbeat`,
  );
  for (const started = now(); now() - started < silence;) {
    await delay(Math.min(1000, heartbeatMs), undefined, options.signal ? { signal: options.signal } : {});
    const held = await readHolder(files, lock, words);
    if (held?.token !== holder.token) return false;
    if ((await beatsOf()) !== before) return true;
  }
  return false;
}

function lockedError(run: string, holder: LockHolder, options: LockOptions): RunLockedError {
  const { holder: kind, folder, instead } = options.words ?? TRAINER;
  const who = `process ${holder.pid} on ${holder.host}, since ${holder.started}`;
  const todo =
    holder.host === hostname()
      ? `stop it, or ${instead}`
      : `if that machine no longer runs it, remove ${lockPath(run, options)}; else ${instead}`;
  return new RunLockedError(`${run}: another ${kind} has this ${folder} (${who}); ${todo}`, holder);
}

const stuckError = (lock: string, { pid }: LockHolder, { holder }: LockWords): RunFolderError =>
  new RunFolderError(
    `${lock} of process ${pid}, which has ended, cannot be replaced; if no ${holder} runs in this folder, remove it`,
  );

/** Null if there is no lock. */
async function readHolder(files: FileSystem, lock: string, { holder }: LockWords): Promise<LockHolder | null> {
  const path = join(lock, HOLDER);
  try {
    const file = await files.open(path);
    try {
      const json = parseJsonObject(await readWhole(file, 4096), path);
      const [pid, host, started, token] = [json.get("pid"), json.get("host"), json.get("started"), json.get("token")];
      const text = (key: string): string | null => {
        const value = json.get(key);
        return typeof value === "string" ? value : null;
      };
      const beat = json.get("heartbeatMs");
      if (
        !Number.isSafeInteger(pid) ||
        typeof host !== "string" ||
        typeof started !== "string" ||
        typeof token !== "string" ||
        !/^[0-9a-f-]+$/.test(token)
      )
        // prettier-ignore
        throw new RunFolderError(`${path}: pid, host, started or token is missing`);
      return {
        pid: pid as number,
        host,
        started,
        token,
        processStart: text("processStart"),
        bootId: text("bootId"),
        pidNamespace: text("pidNamespace"),
        socket: text("socket"),
        heartbeatMs: typeof beat === "number" && beat > 0 && beat < 2 ** 31 ? beat : 0,
      };
    } finally {
      await file.close?.();
    }
  } catch (error) {
    if (error instanceof FileError && (error.code === "ENOENT" || error.code === "ENOTDIR")) return null;
    throw new RunFolderError(
      `${lock} cannot be read (${messageOf(error)}); if no ${holder} runs in this folder, remove it and start again`,
    );
  }
}
