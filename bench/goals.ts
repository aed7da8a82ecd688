/**
 * `node scripts/run.mjs bench/goals.ts [--rounds N] [--only TEXT]`: the goals of Janus-Pro-1B on this device in one run: a guided image token as a
 * share of the streaming read, prefill, vision and VQ decoding as shares of the FMA ceiling, and PyTorch on the CPU beside each, in turns
 * (JANUS_BENCH_PYTHON: a Python with torch; without it the column stays empty). Weights are random.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Device, setDevice, tally } from "../index.ts";
import type { Quantization } from "../index.ts";
import { JANUS_PRO_1B } from "../model/janus/config.ts";
import { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { Probes } from "./ceilings.ts";
import { table } from "./harness.ts";
import { median } from "./stats.ts";
import { WORK_NAMES, workloads } from "./workloads.ts";
import type { Workloads } from "./workloads.ts";

const { values } = parseArgs({ options: { rounds: { type: "string", default: "3" }, only: { type: "string", default: "" } } }); // prettier-ignore
const ROUNDS = Number(values.rounds);
if (!Number.isInteger(ROUNDS) || ROUNDS < 1) throw new RangeError(`goals: --rounds must be an integer of at least 1; got "${values.rounds}". Give one.`); // prettier-ignore
/** Replays of a token in a round. */
const TOKENS = 5;

/** PyTorch in another process: seconds of a piece of work, null if there is no PyTorch. */
class Torch implements Disposable {
  private readonly child = spawn(process.env["JANUS_BENCH_PYTHON"] ?? "python3", [fileURLToPath(new URL("./goals_torch.py", import.meta.url))]); // prettier-ignore
  private readonly lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();

  async start(): Promise<string | null> {
    this.child.on("error", () => undefined);
    this.child.stdin.on("error", () => undefined);
    const { value, done } = await this.lines.next();
    return done ? null : value.replace("ready ", "");
  }

  async seconds(work: string): Promise<number> {
    this.child.stdin.write(`${work}\n`);
    return Number((await this.lines.next()).value);
  }

  [Symbol.dispose](): void {
    this.child.kill();
  }
}

interface Goal {
  readonly work: string;
  readonly torch: string;
  /** Ceiling, and the share of it that is the goal. */
  readonly of: "read" | "FMA";
  readonly share: number;
  readonly quantize?: Quantization;
}
const [token, , prefill, vision, , decoder] = WORK_NAMES as [string, string, string, string, string, string];
const GOALS: readonly Goal[] = [
  { work: token, torch: "token", of: "read", share: 0.85 },
  { work: token, torch: "token", of: "read", share: 0.75, quantize: "int8" },
  { work: token, torch: "token", of: "read", share: 0.6, quantize: "int4" },
  { work: prefill, torch: "prefill", of: "FMA", share: 0.65 },
  { work: vision, torch: "vision", of: "FMA", share: 0.7 },
  { work: decoder, torch: "decoder", of: "FMA", share: 0.6 },
];

const nameOf = ({ work, quantize }: Goal): string => `${work}, ${quantize ?? "bf16"}`;
const chosen = GOALS.filter((goal) => nameOf(goal).includes(values.only));
if (!chosen.length) throw new RangeError(`goals: --only must be part of a name, ${GOALS.map(nameOf).join("; ")}; got "${values.only}". Give one of these.`); // prettier-ignore

const device = await Device.create();
setDevice(device);
using probes = new Probes(device);
using torch = new Torch();
const version = await torch.start();

const seconds = async (run: () => unknown): Promise<number> => {
  const started = performance.now();
  await run();
  await device.sync();
  return (performance.now() - started) / 1000;
};

/** One row: ceiling, ours and PyTorch take turns. */
async function measure(works: Workloads, goal: Goal): Promise<string[]> {
  const { work, torch: name, of, share } = goal;
  const { run } = works.list.find((one) => one.name === work)!;
  const { flops, bytes, launches } = tally(run, device);
  const isToken = name === "token";
  const step = async (): Promise<number> => {
    if (!isToken) return seconds(run);
    const times: number[] = [];
    for (let i = 0; i < TOKENS; i++) times.push(await seconds(() => works.image.next()));
    return median(times);
  };
  await step(); // compiles
  const rounds: { ours: number; ceiling: number; torch: number }[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const { gflops, readGbs } = await probes.measure(3);
    const ours = await step();
    rounds.push({ ours, ceiling: of === "read" ? readGbs : gflops, torch: version ? await torch.seconds(name) : NaN });
  }
  const middle = (key: "ours" | "ceiling" | "torch"): number => median(rounds.map((round) => round[key]));
  const amount = (of === "read" ? bytes : flops) / 1e9;
  const reached = median(rounds.map(({ ours, ceiling }) => amount / ours / ceiling));
  return [
    nameOf(goal),
    String(launches),
    amount.toFixed(1),
    middle("ours").toFixed(3),
    middle("ceiling").toFixed(1),
    `${Math.round(100 * reached)} % of ${of}`,
    `${100 * share} %`,
    version ? `${middle("torch").toFixed(3)} (${isToken ? "bf16" : "f32"})` : "",
    version ? (middle("ours") / middle("torch")).toFixed(2) : "",
  ];
}

const rows: string[][] = [];
for (const quantize of [undefined, "int8", "int4"] as const) {
  const goals = chosen.filter((goal) => goal.quantize === quantize);
  if (!goals.length) continue;
  const model = new JanusForConditionalGeneration(JANUS_PRO_1B, { dtype: "bf16", init: false, device, ...(quantize && { quantize }) }).setRequiresGrad(false); // prettier-ignore
  {
    using works = workloads(model, JANUS_PRO_1B);
    await device.sync();
    for (const goal of goals) {
      rows.push(await measure(works, goal));
      console.log(rows.at(-1)!.join("  "));
    }
  }
  model.dispose();
  device.pool.trim();
  await device.sync();
}
console.log(`\n${device.name}; ${version ? `PyTorch ${version}` : "no PyTorch: set JANUS_BENCH_PYTHON"}; median of ${ROUNDS} rounds`); // prettier-ignore
console.log(table(["work", "launches", "GB or GFLOP", "s", "ceiling", "reached", "goal", "PyTorch s", "ours / PyTorch"], rows)); // prettier-ignore
device.destroy();
