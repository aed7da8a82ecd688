/** The page of the browser tests: runs a job of jobs.ts here or in a Worker. */
import { jobs } from "./jobs.ts";
import type { JobName } from "./jobs.ts";
import type { Reply } from "./worker.ts";

declare global {
  interface Window {
    runJob(name: JobName, options: object): Promise<unknown>;
    runInWorker(name: JobName, options: object): Promise<unknown>;
  }
}

window.runJob = async (name, options) => jobs[name](options as never);

window.runInWorker = (name, options) =>
  new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    worker.addEventListener("error", ({ message }) => reject(new Error(`the worker failed: ${message}`)));
    worker.addEventListener("message", ({ data }: MessageEvent<Reply>) => {
      worker.terminate();
      if ("error" in data) reject(new Error(data.error));
      else resolve(data.result);
    });
    worker.postMessage({ name, options });
  });

document.title = "ready";
