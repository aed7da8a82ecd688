/** The locks of a results folder: one process answers or draws a part of a benchmark. */
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { nodeFileSystem, removeTree } from "../train/node/run/file_system.ts";
import { LOCK_STALE, RunLock } from "../train/node/run/lock.ts";
import type { Shard } from "./ask.ts";

const WORDS = { holder: "evaluation", folder: "results folder", instead: "use another --out" };

export interface LockRunOptions {
  readonly shard: Shard;
  readonly onNotice: (message: string) => void;
  readonly signal: AbortSignal;
}

/** Takes the folder of a benchmark for this shard, and makes it if need be. Throws `RunLockedError` if another process has it. */
export async function lockBenchmark(folder: string, { shard, onNotice, signal }: LockRunOptions): Promise<RunLock> {
  await mkdir(folder, { recursive: true });
  const name = shard.count === 1 ? ".lock" : `.lock.${shard.index + 1}-of-${shard.count}`;
  const lock = await RunLock.take(nodeFileSystem, folder, { name, words: WORDS, onNotice, signal });
  const old = (await readdir(folder)).filter((entry) => entry.startsWith(LOCK_STALE));
  for (const path of old.map((entry) => join(folder, entry)))
    if (path !== lock.stale) await removeTree(nodeFileSystem, path).catch(() => undefined);
  return lock;
}
