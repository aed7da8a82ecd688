/**
 * Run by tier0/run_crash.test.ts in a process of its own, which is killed: saves small checkpoints in a run folder without end, from the newest
 * that verifies on, and writes the step of each that `save` has returned for as a line on stdout.
 */
import { writeSync } from "node:fs";
import { RunFolder } from "../train/node/run/run_folder.ts";

const [path, seed] = [process.argv[2]!, Number(process.argv[3])];
const run = await RunFolder.open(path, { create: true });
const { newest } = await run.newestVerified();
writeSync(1, `open ${newest?.step ?? 0}\n`);
for (let step = (newest?.step ?? 0) + 1; ; step++) {
  await run.save(
    step,
    async (sink) => {
      const weights = new Uint8Array(8192).fill((step * 31 + seed) & 255);
      await sink.write("model/config.json", new TextEncoder().encode(`{"step":${step}}`));
      await sink.write("model/model.safetensors", async (file) => {
        for (let i = 0; i < 4; i++) await file.write(weights);
      });
      await sink.write("optimizer.safetensors", weights);
      await sink.write("state.json", new TextEncoder().encode(JSON.stringify({ step })));
    },
    { last: 2, every: 50 },
  );
  writeSync(1, `saved ${step}\n`);
}
