/** Throughput of `janus serve` on the tiny fixture: 16 streams at once against one after the other. Only in the long form. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { expect, it, onTestFinished } from "vitest";
import { hasFixtures } from "../fixtures.ts";
import { isLong } from "../long.ts";
import { startServe } from "../serve.ts";

const STREAMS = 16;
const ROUNDS = 7;
const folder = fileURLToPath(new URL("../../../shared/fixtures/tiny/hf", import.meta.url));

interface Run {
  readonly texts: readonly string[];
  readonly tokens: number;
  readonly ms: number;
  /** Processor time of the server. */
  readonly cpuMs: number;
}

/** Processor time of a process with all its threads, ms. */
function cpuMsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)!.split(" ");
  return 10 * (Number(fields[11]) + Number(fields[12])); // in 1/100 s
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;
const described = (ratios: readonly number[]): string =>
  `${median(ratios).toFixed(2)} (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})`;

// The machine may do other work, so that processor time is compared; on an idle machine it is the time on the clock.
it.runIf(isLong && hasFixtures && process.platform === "linux").each([48, 200])(
  "16 streams of up to %d tokens at once take a quarter of the processor time of one after the other",
  async (most) => {
    const { child, url, result } = await startServe(["--model", folder, "--context", "256", "--name", "small"]);
    onTestFinished(() => void child.kill());
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
    const answer = async (seed: number): Promise<readonly [string, number]> => {
      let [text, tokens] = ["", 0];
      const stream = await client.chat.completions.create({
        model: "small",
        messages: [{ role: "user", content: "What is there?" }],
        max_tokens: most,
        temperature: 1.9,
        seed,
        stream: true,
        stream_options: { include_usage: true },
      });
      for await (const { choices, usage } of stream) {
        text += choices[0]?.delta.content ?? "";
        tokens = usage?.completion_tokens ?? tokens;
      }
      return [text, tokens];
    };
    const measured = async (run: () => Promise<(readonly [string, number])[]>): Promise<Run> => {
      const [at, cpu] = [performance.now(), cpuMsOf(child.pid!)];
      const answers = await run();
      const tokens = answers.reduce((sum, [, count]) => sum + count, 0);
      return { texts: answers.map(([text]) => text), tokens, ms: performance.now() - at, cpuMs: cpuMsOf(child.pid!) - cpu }; // prettier-ignore
    };
    const seeds = Array.from({ length: STREAMS }, (_, seed) => seed);
    const together = (): Promise<Run> => measured(() => Promise.all(seeds.map(answer)));
    const alone = (): Promise<Run> =>
      measured(async () => {
        const answers: (readonly [string, number])[] = [];
        for (const seed of seeds) answers.push(await answer(seed));
        return answers;
      });
    await together();
    const expected = (await alone()).texts;
    const rounds: (readonly [Run, Run])[] = [];
    for (let k = 0; k < ROUNDS; k++) rounds.push([await alone(), await together()]);
    child.kill("SIGTERM");
    await result;
    for (const { texts } of rounds.flat()) expect(texts).toEqual(expected);
    const cpu = rounds.map(([one, many]) => one.cpuMs / many.cpuMs);
    const clock = rounds.map(([one, many]) => one.ms / many.ms);
    console.log(`${rounds[0]![0].tokens} tokens; alone / together: processor time ${described(cpu)}, clock ${described(clock)}`); // prettier-ignore
    expect(median(cpu)).toBeGreaterThanOrEqual(4);
  },
);
