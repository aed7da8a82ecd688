/** The errors of run folders: what failed, where, and what to do. */
import { IoError } from "../../../model/io/errors.ts";

/** The trainer that has a run folder, as its lock names it. */
export interface LockHolder {
  readonly pid: number;
  readonly host: string;
  /** When it took the lock, ISO 8601. */
  readonly started: string;
  /** Distinguishes this lock from every other. */
  readonly token: string;
  /** When the process began, as Linux counts; null elsewhere. Distinguishes a process from a later one of the same number. */
  readonly processStart: string | null;
  /** Start of the machine, as Linux names it; null elsewhere. Hosts may share a name. */
  readonly bootId: string | null;
  /** Namespace of the process's number, as Linux names it; null elsewhere. Containers may share the name of their host. */
  readonly pidNamespace: string | null;
  /** Time between heartbeats; 0 for none. */
  readonly heartbeatMs: number;
  /** Device and inode of the socket beside the lock's file that answers while the process lives; null if there is none. */
  readonly socket: string | null;
}

/** A run folder that cannot be opened, read or written. Base of the errors below. */
export class RunFolderError extends IoError {}

/** Another trainer has the run folder. */
export class RunLockedError extends RunFolderError {
  readonly holder: LockHolder;
  constructor(message: string, holder: LockHolder) {
    super(message);
    this.holder = holder;
  }
}

/** The run already has a checkpoint of the step. It does not change; nothing was written. */
export class StepExistsError extends RunFolderError {
  readonly step: number;
  constructor(message: string, step: number) {
    super(message);
    this.step = step;
  }
}

/** A checkpoint could not be saved: a full disk, an I/O error. Earlier checkpoints are unchanged. */
export class SaveError extends RunFolderError {
  readonly step: number;
  /** Error code of the system: ENOSPC, EIO, … */
  readonly code: string;
  constructor(message: string, step: number, code: string, cause: unknown) {
    super(message);
    this.step = step;
    this.code = code;
    this.cause = cause;
  }
}

/** The code of an error that the file system gave; null for any other error. */
export function systemCode(error: unknown): string | null {
  const isCoded = error instanceof Error && "code" in error && typeof error.code === "string";
  return isCoded && /^E[A-Z0-9]+$/.test(error.code as string) ? (error.code as string) : null;
}
