/** What the launcher of a process says of it: mpirun, srun and others set these variables before the program starts. */

export interface Launched {
  /** Number of processes. */
  readonly size: number;
  /** Of this process among all, from 0. */
  readonly rank: number;
  /** Of this process among those of its machine, from 0; chooses its GPU. */
  readonly localRank: number;
  /** Who says so, for messages. */
  readonly by: string;
}

/** Size of the world and rank by launcher. Slurm's own variables are there without MPI too (sbatch): only a step with PMIx is one of several. */
const LAUNCHERS = [
  { by: "Open MPI", size: ["OMPI_COMM_WORLD_SIZE"], rank: "OMPI_COMM_WORLD_RANK" },
  { by: "PMI", size: ["PMI_SIZE"], rank: "PMI_RANK" },
  { by: "Slurm", size: ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"], rank: "PMIX_RANK" },
] as const;
const LOCAL_RANKS = ["OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID", "PMI_LOCAL_RANK", "LOCAL_RANK"];

type Environment = Readonly<Record<string, string | undefined>>;

const wholeNumber = (text: string | undefined): number | null => (/^\d{1,9}$/.test(text ?? "") ? Number(text) : null);

/** Null if the process was started by itself. */
export function launchedBy(env: Environment = process.env): Launched | null {
  const first = (names: readonly string[]): number | null =>
    names.map((name) => wholeNumber(env[name])).find((number) => number !== null) ?? null;
  for (const { by, size: sizes, rank: name } of LAUNCHERS) {
    const [size, rank] = [first(sizes), first([name])];
    if (size !== null && rank !== null && rank < size) return { size, rank, localRank: first(LOCAL_RANKS) ?? 0, by };
  }
  return null;
}
