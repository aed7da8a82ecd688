/** A rank that waits for the others, without a GPU; the last one suspends itself instead. Ends with an error that names it. */
import { Mpi } from "../train/node/ranks/mpi.ts";

const mpi = await Mpi.start();
await mpi.watch((error) => {
  console.error(error.message);
  mpi.abort(1);
});
if (mpi.rank === mpi.size - 1) process.kill(process.pid, "SIGSTOP");
await mpi.finish();
