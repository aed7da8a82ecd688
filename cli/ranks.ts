/** Commands that several processes run together: those that mpirun or srun has started, each with its own GPU. Rank 0 alone prints. */
import { DeviceError } from "../engine/errors.ts";
import type { Ranks } from "../train/ranks.ts";
import { launchedBy } from "../train/node/ranks/launched.ts";
import type { Context } from "./context.ts";
import { reportError } from "./errors.ts";
import { ownVersion } from "./packages.ts";

/** The processes of a command, and the adapter of this one: a name or number, or undefined for the fastest. */
export interface RankedRun {
  readonly ranks: Ranks;
  readonly adapter: string | number | undefined;
}

/**
 * Runs `work` in this process as one of those that were started together; alone, it is rank 0 of 1, and no MPI is loaded. An error in any process
 * is printed with its rank and machine and ends all of them.
 */
export async function withRanks(
  context: Context,
  adapter: string | number | undefined,
  work: (run: RankedRun) => Promise<void>,
): Promise<void> {
  const launched = launchedBy();
  if (!launched || launched.size === 1)
    return work({ ranks: (await import("../train/ranks.ts")).ONE_PROCESS, adapter });
  const [{ Mpi }, { RankGroup, RankError, requireSame }] = await Promise.all([
    import("../train/node/ranks/mpi.ts"),
    import("../train/rank_group.ts"),
  ]);
  const mpi = await Mpi.start();
  if (mpi.size !== launched.size)
    throw new RankError(`mpi: the ${launched.size} processes that ${launched.by} started must find each other; got a world of ${mpi.size} (${mpi.library.version}). Start them with the mpirun of this Open MPI, or with srun --mpi=pmix if it was built with PMIx.`); // prettier-ignore
  if (mpi.rank > 0) context.out.follow(mpi.name);
  try {
    const ranks = new RankGroup(mpi);
    await requireSame(ranks, { "version of janus-webgpu": ownVersion() });
    await work({ ranks, adapter: adapter ?? (await adapterOf(launched.localRank)) });
  } catch (error) {
    // All processes stopped for a signal together, after they had saved.
    if (context.signal.aborted && error === context.signal.reason) {
      mpi.finish();
      throw error;
    }
    context.out.follow(mpi.name);
    const code = await reportError(error, context.out, context.signal);
    await context.out.flush();
    mpi.abort(code);
  }
  mpi.finish();
}

/** The GPU of a process among those of its machine; undefined for software adapters, which all processes share. */
async function adapterOf(localRank: number): Promise<number | undefined> {
  const { isSoftware, listAdapters } = await import("../engine/index.ts");
  const all = await listAdapters();
  const gpus = [...all.keys()].filter((i) => !isSoftware(all[i]!.adapter.info));
  if (gpus.length === 0) return undefined;
  const gpu = gpus[localRank];
  if (gpu === undefined)
    throw new DeviceError(`mpi: each process of a machine must have a GPU of its own; got local rank ${localRank} and ${gpus.length} GPUs. Start at most ${gpus.length} processes on a machine, or name the GPU with --adapter.`); // prettier-ignore
  return gpu;
}
