/** Commands that several processes run together: those that mpirun or srun has started, each with its own GPU. Rank 0 alone prints. */
import { DeviceError } from "../engine/errors.ts";
import type { Transport } from "../train/rank_group.ts";
import type { Ranks } from "../train/ranks.ts";
import { launchedBy } from "../train/node/ranks/launched.ts";
import type { Context } from "./context.ts";
import { Interrupted, reportError } from "./errors.ts";
import { codeHash, ownVersion } from "./packages.ts";

/** The processes of a command, and the adapter of this one: a name or number, or undefined for the fastest. */
export interface RankedRun {
  readonly ranks: Ranks;
  readonly adapter: string | number | undefined;
  /** What carries the messages; null for one process. */
  readonly transport: Transport | null;
  /** Ends all processes if one of them suspends or the answer of its `probe`, e.g. its GPU's, does not come; null: no probe. */
  readonly watch: (probe: (() => Promise<unknown>) | null) => void;
}

/**
 * Runs `work` in this process as one of those that were started together; alone, it is rank 0 of 1, and no MPI is loaded. An error in any process
 * is printed with its rank and machine and ends all of them; so does a signal, unless `work` returns in all processes.
 */
export async function withRanks<T>(
  context: Context,
  adapter: string | number | undefined,
  work: (run: RankedRun) => Promise<T>,
): Promise<T> {
  const launched = launchedBy();
  if (!launched || launched.size === 1)
    return work({ ranks: (await import("../train/ranks.ts")).ONE_PROCESS, adapter, transport: null, watch: () => undefined }); // prettier-ignore
  const [{ Mpi }, { RankGroup, RankError, requireSame }] = await Promise.all([
    import("../train/node/ranks/mpi.ts"),
    import("../train/rank_group.ts"),
  ]);
  const mpi = await Mpi.start();
  const fail = async (error: unknown): Promise<never> => {
    context.out.follow(mpi.name);
    if (error instanceof Interrupted) context.out.error(error.message); // a note would not say which rank it is
    const code = await reportError(error, context.out, context.signal);
    await context.out.flush();
    return mpi.abort(code);
  };
  try {
    if (mpi.size !== launched.size)
      throw new RankError(`mpi: the ${launched.size} processes that ${launched.by} started must find each other; got a world of ${mpi.size} (${mpi.library.version}). Start them with the mpirun of this Open MPI, or with srun --mpi=pmix if it was built with PMIx.`); // prettier-ignore
    if (mpi.rank > 0) context.out.follow(mpi.name);
    const watch = await mpi.watch((error) => void fail(error));
    const ranks = new RankGroup(mpi);
    await requireSame(ranks, { "version of janus-webgpu": ownVersion(), "code of janus-webgpu": codeHash() });
    const result = await work({ ranks, adapter: adapter ?? (await adapterOf(launched.localRank)), transport: mpi, watch }); // prettier-ignore
    await mpi.finish();
    return result;
  } catch (error) {
    return await fail(error);
  }
}

/** The GPU of a process among those of its machine; undefined for software adapters, which all processes share. */
export async function adapterOf(localRank: number): Promise<number | undefined> {
  const { isSoftware, listAdapters } = await import("../engine/index.ts");
  const all = await listAdapters();
  const gpus = [...all.keys()].filter((i) => !isSoftware(all[i]!.adapter.info));
  if (gpus.length === 0) return undefined;
  const gpu = gpus[localRank];
  if (gpu === undefined)
    throw new DeviceError(`mpi: each process of a machine must have a GPU of its own; got local rank ${localRank} and ${gpus.length} GPUs. Start at most ${gpus.length} processes on a machine, or name the GPU with --adapter.`); // prettier-ignore
  return gpu;
}

/** Speed of the messages between ranks. */
export interface LinkSpeed {
  /** Time until a few bytes of every rank are known to all, ms. */
  readonly latencyMs: number;
  /** Bytes that leave a rank per second while gradients are summed. */
  readonly bytesPerSecond: number;
}

const LATENCY_ROUNDS = 21;
const BANDWIDTH_ROUNDS = 5;
const BUCKET_BYTES = 25 * 2 ** 20;

/** Measures what summing gradients needs; every rank calls it. Medians. */
export async function measureLink(transport: Transport): Promise<LinkSpeed> {
  const median = async (rounds: number, round: () => Promise<unknown>): Promise<number> => {
    const times: number[] = [];
    for (let i = 0; i < rounds; i++) {
      const started = performance.now();
      await round();
      times.push(performance.now() - started);
    }
    return times.sort((a, b) => a - b)[Math.floor(rounds / 2)]!;
  };
  const latencyMs = await median(LATENCY_ROUNDS, () => transport.allGather(Uint8Array.of(transport.rank)));
  const part = new Uint8Array(Math.ceil(BUCKET_BYTES / transport.size));
  const parts = new Array<Uint8Array>(transport.size).fill(part);
  const bucketMs = await median(BANDWIDTH_ROUNDS, async () => {
    await transport.allToAll(parts);
    await transport.allGather(part);
  });
  return { latencyMs, bytesPerSecond: (2 * (transport.size - 1) * part.length * 1000) / bucketMs };
}
