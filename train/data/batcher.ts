/** Single requests that are answered together. */
import { DataError } from "./errors.ts";

/** What comes in while a batch is computed makes the next one; the first waits this long for others. */
const GATHER_MS = 5;

interface Request<In, Out> {
  readonly input: In;
  readonly resolve: (output: Out) => void;
  readonly reject: (error: unknown) => void;
}

/** Calls `run` with up to `most` inputs, one batch at a time. */
export class Batcher<In, Out> {
  private readonly run: (inputs: In[]) => Promise<Out[]>;
  private readonly most: number;
  private queue: Request<In, Out>[] = [];
  private isRunning = false;

  constructor(run: (inputs: In[]) => Promise<Out[]>, most: number) {
    this.run = run;
    this.most = most;
  }

  add(input: In): Promise<Out> {
    return new Promise((resolve, reject) => {
      this.queue.push({ input, resolve, reject });
      if (!this.isRunning) void this.drain();
    });
  }

  private async drain(): Promise<void> {
    this.isRunning = true;
    await new Promise((resolve) => setTimeout(resolve, GATHER_MS));
    while (this.queue.length) {
      const batch = this.queue.splice(0, this.most);
      try {
        const outputs = await this.run(batch.map(({ input }) => input));
        if (outputs.length !== batch.length)
          throw new DataError(`a batch of ${batch.length} inputs gave ${outputs.length} outputs`);
        for (const [i, { resolve }] of batch.entries()) resolve(outputs[i]!);
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.isRunning = false;
  }
}
