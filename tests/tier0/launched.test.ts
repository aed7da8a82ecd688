/** What launchers say of a process, and the order in which it is believed. */
import { expect, it } from "vitest";
import { launchedBy } from "../../train/node/ranks/launched.ts";

it.each([
  ["no launcher", {}, null],
  [
    "mpirun of Open MPI",
    { OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_RANK: "3", OMPI_COMM_WORLD_LOCAL_RANK: "3" },
    { size: 4, rank: 3, localRank: 3, by: "Open MPI" },
  ],
  [
    "Open MPI inside a Slurm step",
    {
      OMPI_COMM_WORLD_SIZE: "2",
      OMPI_COMM_WORLD_RANK: "1",
      OMPI_COMM_WORLD_LOCAL_RANK: "1",
      SLURM_NTASKS: "8",
      SLURM_LOCALID: "5",
    },
    { size: 2, rank: 1, localRank: 1, by: "Open MPI" },
  ],
  [
    "srun --mpi=pmix",
    { PMIX_RANK: "9", SLURM_STEP_NUM_TASKS: "16", SLURM_LOCALID: "1" },
    { size: 16, rank: 9, localRank: 1, by: "Slurm" },
  ],
  ["a Slurm script without srun", { SLURM_NTASKS: "16", SLURM_LOCALID: "0" }, null],
  ["MPICH", { PMI_SIZE: "3", PMI_RANK: "2", MPI_LOCALRANKID: "2" }, { size: 3, rank: 2, localRank: 2, by: "PMI" }],
  ["values that are no numbers", { OMPI_COMM_WORLD_SIZE: "four" }, null],
] as const)("%s", (_, env, expected) => {
  expect(launchedBy(env)).toEqual(expected);
});
