/** What the launcher of a process says of it: mpirun, srun and others set these variables before the program starts. */

export interface Launched {
  /** Number of processes. */
  readonly size: number;
  /** Of this process among those of its machine, from 0; chooses its GPU. */
  readonly localRank: number;
  /** Who says so, for messages. */
  readonly by: string;
}

/** Size of the world by launcher: Open MPI, PMIx and PMI. Slurm's own variables are there without MPI too (sbatch), so they are not taken. */
const SIZES = { OMPI_COMM_WORLD_SIZE: "Open MPI", PMI_SIZE: "PMI" } as const;
const LOCAL_RANKS = ["OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID", "PMI_LOCAL_RANK", "LOCAL_RANK"];

type Environment = Readonly<Record<string, string | undefined>>;

const wholeNumber = (text: string | undefined): number | null => (/^\d{1,9}$/.test(text ?? "") ? Number(text) : null);

/** Null if the process was started by itself. */
export function launchedBy(env: Environment = process.env): Launched | null {
  const localRank = LOCAL_RANKS.map((name) => wholeNumber(env[name])).find((rank) => rank !== null) ?? 0;
  for (const [name, by] of Object.entries(SIZES)) {
    const size = wholeNumber(env[name]);
    if (size !== null) return { size, localRank, by };
  }
  // srun --mpi=pmix: PMIx names the rank, Slurm the size.
  const size = wholeNumber(env["SLURM_STEP_NUM_TASKS"] ?? env["SLURM_NTASKS"]);
  return wholeNumber(env["PMIX_RANK"]) !== null && size !== null ? { size, localRank, by: "Slurm" } : null;
}
