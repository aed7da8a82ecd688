/** Runs one job of jobs.ts in a Worker. */
import { jobs } from "./jobs.ts";
import type { JobName } from "./jobs.ts";

export type Reply = { readonly result: unknown } | { readonly error: string };

addEventListener("message", ({ data }: MessageEvent<{ readonly name: JobName; readonly options: never }>) => {
  const reply = (message: Reply): void => globalThis.postMessage(message);
  jobs[data.name](data.options).then(
    (result: unknown) => reply({ result }),
    (error: unknown) => reply({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  );
});
