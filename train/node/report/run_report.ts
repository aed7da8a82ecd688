/**
 * The report of a training run: one page with its curves, its samples over time, reconstructions by the image
 * tokenizer, and its events.
 */
import { basename, join, resolve } from "node:path";
import { writeFileAtomic } from "../../../model/node/files.ts";
import { TASKS } from "../../samples.ts";
import type { Task } from "../../samples.ts";
import { TASK_COLOURS, lineChart } from "./chart.ts";
import type { Mark } from "./chart.ts";
import { Curve } from "./curve.ts";
import { definitions, html, page, pictureGrid, picturePairs, table } from "./html.ts";
import type { Content, Html, PagePicture, Section } from "./html.ts";
import { readEvents, readLog } from "./log.ts";
import type { LogLine, RunEvent } from "./log.ts";
import { readReconstructions, readSamples } from "./samples.ts";

/** Names of the tasks in charts and tables. */
const TASK_NAMES = { und: "understanding", text: "text", gen: "images", all: "all tasks" } as const;

/** Charts besides the losses by task: a number of a step, and the format of its axis. */
const MEASURES = {
  reconstruction: {
    title: "Mean squared error of reconstructed pixels",
    y: "pixels from −1 to 1",
    of: (line: LogLine) => line.reconstruction,
    scale: "log",
  },
  codebook: { title: "Squared distance of vectors from their codes", of: (line: LogLine) => line.codebook, scale: "log" }, // prettier-ignore
  adversarial: { title: "Generator loss from the discriminator", of: (line: LogLine) => line.adversarial },
  discriminator: { title: "Hinge loss of the discriminator", of: (line: LogLine) => line.discriminator, zero: true },
  used: { title: "Codes that a step used", of: (line: LogLine) => line.used, zero: true },
  perplexity: { title: "Effective number of codes (perplexity)", of: (line: LogLine) => line.reseed?.perplexity, zero: true }, // prettier-ignore
  reward: { title: "Mean reward of the images drawn", of: (line: LogLine) => line.measures?.["reward"] },
  kl: { title: "Divergence from the frozen model, nats per code", of: (line: LogLine) => line.measures?.["kl"], zero: true }, // prettier-ignore
  accuracy: { title: "Share of pairs with the preferred part ahead", of: (line: LogLine) => line.measures?.["accuracy"], format: "~%", zero: true }, // prettier-ignore
  margin: { title: "Margin of the preferred parts (β · log-ratio)", of: (line: LogLine) => line.measures?.["margin"] },
  lr: { title: "Learning rate", of: (line: LogLine) => line.lr, format: "~e", zero: true, smooth: false },
  gradNorm: { title: "Norm of the gradients, before clipping", of: (line: LogLine) => line.gradNorm, scale: "log" },
  lossScale: { title: "Loss scale", of: (line: LogLine) => line.lossScale, format: "~s", scale: "log", smooth: false },
  tokens: { title: "Tokens per second", of: (line: LogLine) => line.tokensPerSecond, format: "~s", zero: true },
  images: { title: "Images per second", of: (line: LogLine) => line.imagesPerSecond, zero: true },
  mfu: { title: "FLOPs of the model, share of the ceiling (MFU)", of: (line: LogLine) => line.mfu, format: "~%", zero: true }, // prettier-ignore
  memory: {
    title: "Device memory, MB",
    of: ({ memoryBytes }: LogLine) => (typeof memoryBytes === "number" ? memoryBytes / 1e6 : null),
    zero: true,
  },
  waiting: {
    title: "Share of the time spent waiting for data",
    of: ({ ms, waitingMs }: LogLine) => (ms && waitingMs !== null && waitingMs !== undefined ? waitingMs / ms : null),
    format: "~%",
    zero: true,
  },
} as const;

/** The curves of a run, or of several one after the other, in bounded memory. */
export class RunCurves {
  /** The line that came last. */
  last: LogLine | null = null;
  /** Trained tokens of each task. */
  readonly trained: Partial<Record<Task, number>> = {};
  private readonly losses = { all: new Curve(), und: new Curve(), text: new Curve(), gen: new Curve() };
  private readonly measures = Object.fromEntries(Object.keys(MEASURES).map((name) => [name, new Curve()]));
  private readonly marks: Mark[] = [];
  private before = 0;

  /** The following lines are those of another run, e.g. the next stage: its steps continue the count, and a mark shows its beginning. */
  begin(label: string): void {
    if (this.last) this.before += this.last.step + 1;
    this.last = null;
    this.marks.push({ x: this.before + 1, label });
  }

  /** Marks a position on the curve of the losses, `steps` into the run that is being read. */
  mark(steps: number, label: string): void {
    this.marks.push({ x: this.before + steps, label });
  }

  add(line: LogLine): void {
    const x = this.before + line.step + 1;
    this.last = line;
    this.losses.all.add(x, line.loss);
    for (const task of TASKS) {
      const report = line.tasks?.[task];
      this.losses[task].add(x, report?.loss);
      if (report?.tokens && !line.skipped) this.trained[task] = (this.trained[task] ?? 0) + report.tokens;
    }
    for (const [name, { of }] of Object.entries(MEASURES)) this.measures[name]!.add(x, of(line));
  }

  /**
   * Losses first, by task, or that of the pixels in stage 0; then the rest, down to speed and memory. Measures that no line has are left out.
   * The first is large and has the marks.
   */
  async charts(): Promise<Html[]> {
    const tasks = TASKS.filter((task) => !this.losses[task].isEmpty);
    const names = tasks.length > 1 ? (["all", ...tasks] as const) : tasks;
    const losses = {
      title: "Loss by task",
      y: "nats per trained token",
      series: names.map((name) => ({ name: TASK_NAMES[name], points: this.losses[name], colour: TASK_COLOURS[name] })),
    };
    const measures = Object.entries(MEASURES).flatMap(([name, how]) => {
      const points = this.measures[name]!;
      return points.isEmpty ? [] : [{ ...how, series: [{ name, points }] }];
    });
    const isStage0 = tasks.length === 0 && !this.measures["reconstruction"]!.isEmpty;
    const charts: Html[] = [];
    for (const chart of isStage0 ? measures : [losses, ...measures]) {
      const large = charts.length === 0 && { marks: this.marks, isWide: true };
      charts.push(await lineChart({ ...chart, x: "step", ...large }));
    }
    return charts;
  }
}

/** Images of samples in a page. */
const MAX_PICTURES = 48;
/** Events in a page: the last ones. */
const MAX_EVENTS = 200;
/** Images in a row of the page: of one prompt, and pairs of an original and its reconstruction. */
const SAMPLES_IN_ROW = 8;
const PAIRS_IN_ROW = 4;

const count = (n: number): string => n.toLocaleString("en-US");

export interface RunReportOptions {
  /** Interval in seconds at which the browser reloads the page, during the run. */
  readonly refresh?: number;
  /** Curves of the log, if at hand; else the log is read. */
  readonly curves?: RunCurves;
}

/** Writes `report.html` into a run folder atomically, from the contents of the folder. Returns its path. */
export async function runReport(run: string, options: RunReportOptions = {}): Promise<string> {
  const { refresh } = options;
  const events = await readEvents(run);
  const curves = options.curves ?? new RunCurves();
  if (!options.curves) for await (const line of readLog(run)) curves.add(line);
  const settings = events.findLast(({ config }) => config !== undefined)?.config;
  const sections: Section[] = [
    { title: "Curves", content: [...(await curves.charts()), lastStep(curves)] },
    ...samplesSection(await readSamples(run, MAX_PICTURES)),
    ...reconstructionsSection(await readReconstructions(run)),
    ...(events.length ? [{ title: "Events", content: [eventsTable(events)] }] : []),
    ...(settings === undefined ? [] : [{ title: "Settings", content: [definitions(flat(settings))] }]),
  ];
  const name = basename(resolve(run));
  const path = join(run, "report.html");
  const file = page({
    title: `Training run ${name}`,
    summary: summary(curves, settings, refresh !== undefined),
    sections,
    ...(refresh !== undefined && { refresh }),
  });
  await writeFileAtomic(path, new TextEncoder().encode(file));
  return path;
}

function summary(curves: RunCurves, settings: unknown, isAlive: boolean): string {
  const { stage, steps, stopAt } = (settings ?? {}) as { stage?: number; steps?: number; stopAt?: number };
  const done = (curves.last?.step ?? -1) + 1;
  const end = steps === undefined ? null : Math.min(steps, stopAt ?? steps);
  return [
    ...(stage === undefined ? [] : [`stage ${stage}`]),
    `${count(done)} ${end === null ? "" : `of ${count(end)} `}steps`,
    isAlive ? "running when this was written" : "not running when this was written",
    `${new Date().toISOString().slice(0, 19).replace("T", " ")} UTC`,
  ].join(" · ");
}

function lastStep({ last, trained }: RunCurves): Content {
  if (!last) return null;
  const rows = TASKS.flatMap((task) => {
    const report = last.tasks?.[task];
    if (!report && !trained[task]) return [];
    return [[TASK_NAMES[task], report?.loss?.toFixed(4) ?? "", count(report?.tokens ?? 0), count(trained[task] ?? 0)]];
  });
  if (rows.length === 0) return null;
  return table([`step ${count(last.step + 1)}`, "loss", "trained tokens", "trained tokens so far"], rows, [1, 2, 3]);
}

/** The images of each prompt over the steps, from left to right. */
function samplesSection(steps: Awaited<ReturnType<typeof readSamples>>): Section[] {
  const newest = steps.at(-1);
  if (!newest) return [];
  const rows = newest.pictures.map(({ prompt }): Content => {
    const pictures = steps.flatMap(({ step, pictures: some }): PagePicture[] => {
      const found = some.find((one) => one.prompt === prompt);
      return found ? [{ png: found.png, caption: `step ${count(step)}`, about: `${prompt}, step ${step}, seed ${found.seed}` }] : []; // prettier-ignore
    });
    return html`<h3>${prompt}</h3>
      ${pictureGrid(pictures, { columns: SAMPLES_IN_ROW })}`;
  });
  return [{ title: "Samples from the same prompts and seeds", content: rows }];
}

function reconstructionsSection(found: Awaited<ReturnType<typeof readReconstructions>>): Section[] {
  if (!found.length) return [];
  const pairs = found.map(({ original, png, psnr }) => ({
    pictures: [
      { png: original, caption: "original" },
      { png, caption: `reconstruction, ${psnr} dB` },
    ] as const,
    caption: `original and reconstruction, ${psnr} dB`,
  }));
  return [
    {
      title: "Reconstructions of the image tokenizer",
      content: [
        "Images of the training data, encoded and decoded by the image tokenizer. Generated images cannot be sharper.",
        picturePairs(pairs, { columns: PAIRS_IN_ROW }),
      ],
    },
  ];
}

function eventsTable(events: readonly RunEvent[]): Html {
  const rows = events.slice(-MAX_EVENTS).reverse();
  return table(
    ["time (UTC)", "steps", "event", "details"],
    rows.map(({ time, step, kind, text }) => [
      String(time).slice(0, 19).replace("T", " "),
      count(Number(step)),
      String(kind),
      text,
    ]),
    [1],
  );
}

/** `{a: {b: 1}}` as `[["a.b", "1"]]`. */
function flat(value: unknown, path = ""): [name: string, value: string][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return [[path, JSON.stringify(value) ?? ""]];
  return Object.entries(value).flatMap(([key, inner]) => flat(inner, path ? `${path}.${key}` : key));
}
