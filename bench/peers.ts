/**
 * This engine beside others: each in a process of its own, measured in turn, round by round (A B C A B C …), on the same rows and inputs. Every
 * result is checked against float64 first. A process that is not measured is stopped, so that engines with threads of their own disturb nobody.
 */
import { spawn, spawnSync } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { ArgumentError, JanusError, sizeOf } from "../index.ts";
import type { Shape } from "../index.ts";
import { ref } from "../tests/reference.ts";
import type { Ref } from "../tests/reference.ts";
import { tableRows } from "./rows/table.ts";
import { drawInput, wrongParts } from "./rows/row.ts";
import type { Row } from "./rows/row.ts";
import { checkoutFolder } from "./run_info.ts";
import type { RowResult, WrongRow } from "./results.ts";
import { spreadOf } from "./stats.ts";
import type { Spread } from "./stats.ts";
import { randomFrom } from "../tests/random.ts";

/** Engines, ours first. */
export const PEERS = [
  "janus",
  "janus-captured",
  "jax-js",
  "tfjs",
  "ort-web",
  "ort-node",
  "torch",
  "torchlette",
  "hf-kernels",
] as const;
export type PeerName = (typeof PEERS)[number];

/** Engines that were looked for and cannot be measured, and why. */
const ABSENT: Readonly<Partial<Record<PeerName, string>>> = {
  torchlette: "torchlette is not published on npm",
  "hf-kernels": "@huggingface/kernels is not published on npm",
};
const MARK = "@@bench ";
/** An engine that does not answer for so long has hung. */
const ANSWER_MS = 10 * 60_000;

export interface PeerOptions {
  readonly filter: string;
  /** Engines to measure; default: all. */
  readonly engines?: readonly PeerName[];
  readonly rounds: number;
  /** For each row and engine, over all rounds. */
  readonly seconds: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number, label: string) => void;
  /** Called after each row with all that was measured so far. */
  readonly onPeers?: (found: PeerResults) => void;
}

export interface PeerInfo {
  readonly engine: PeerName;
  readonly name: string;
  readonly version: string;
  readonly adapter: string | null;
}

/** One row by one engine. */
export interface PeerCell {
  readonly kind: "peer";
  readonly row: string;
  readonly engine: PeerName;
  /** Wall time of a call; null if it was not timed. */
  readonly time: Spread | null;
  /** Why it was not timed: it lacks the op, its result is wrong, or it failed. */
  readonly reason?: string;
}

export interface PeerResults {
  readonly engines: readonly PeerInfo[];
  /** Engines that cannot be measured here, and why. */
  readonly skipped: readonly { readonly engine: PeerName; readonly reason: string }[];
  readonly rows: readonly string[];
  readonly cells: readonly PeerCell[];
}

/** The folder of the other engines. Throws `ArgumentError` if it is not there or not installed. */
export function requirePeers(root = checkoutFolder()): string {
  const folder = root && join(root, "bench", "peers");
  if (!folder || !existsSync(join(folder, "package.json")))
    throw new ArgumentError("bench: peers must run in a checkout, where bench/peers has a package.json of its own; got an installed package. Clone the repository, then run janus bench peers there."); // prettier-ignore
  if (!existsSync(join(folder, "node_modules")))
    throw new ArgumentError("bench: peers must be installed first; bench/peers has no node_modules. Run: npm ci --ignore-scripts --prefix bench/peers"); // prettier-ignore
  return folder;
}

export function peerRows(filter: string): Row[] {
  const rows = tableRows().filter(({ peer, name }) => peer && name.toLowerCase().includes(filter.toLowerCase()));
  if (!rows.length)
    throw new ArgumentError(`bench: --filter must name a row that other engines have; got ${JSON.stringify(filter)}. See janus bench peers --list.`); // prettier-ignore
  return rows;
}

/** A request to an engine; its answer. */
interface Answer {
  readonly error?: string;
  readonly unsupported?: string;
  readonly outputs?: readonly string[];
  readonly ms?: readonly number[];
  readonly ready?: true;
  readonly name?: string;
  readonly version?: string;
  readonly adapter?: string | null;
}

class Engine {
  readonly engine: PeerName;
  info: PeerInfo | null = null;
  private readonly child: ChildProcess;
  private waiting: ((answer: Answer) => void) | null = null;
  private readonly answers: Answer[] = [];
  private ended: string | null = null;

  constructor(engine: PeerName, child: ChildProcess) {
    this.engine = engine;
    this.child = child;
    createInterface({ input: child.stdout! }).on("line", (line) => {
      if (line.startsWith(MARK)) this.take(JSON.parse(line.slice(MARK.length)) as Answer);
    });
    let last = "";
    child.stderr!.setEncoding("utf8").on("data", (text: string) => (last = (last + text).slice(-2000)));
    child.stdin!.on("error", () => undefined);
    child.on("close", (code, signal) => {
      this.ended = `ended with ${signal ?? code}${last.trim() ? `: ${last.trim().split("\n").at(-1)!}` : ""}`;
      this.take({ error: this.ended });
    });
  }

  private take(answer: Answer): void {
    if (this.waiting) this.waiting(answer);
    else this.answers.push(answer);
    this.waiting = null;
  }

  /** The next answer. The process runs only meanwhile. */
  async ask(request: object | null): Promise<Answer> {
    if (this.ended) return { error: this.ended };
    this.run(true);
    if (request) this.child.stdin!.write(`${JSON.stringify(request)}\n`);
    const known = this.answers.shift();
    const answer =
      known ??
      (await new Promise<Answer>((resolve) => {
        const timer = setTimeout(() => {
          this.close();
          resolve({ error: `no answer for ${ANSWER_MS / 60_000} minutes` });
        }, ANSWER_MS);
        this.waiting = (found) => {
          clearTimeout(timer);
          resolve(found);
        };
      }));
    this.run(false);
    return answer;
  }

  /** Lets the process run, or stops it; Windows has no such signals, there it only waits for its next request. */
  private run(yes: boolean): void {
    if (process.platform !== "win32" && !this.ended) this.child.kill(yes ? "SIGCONT" : "SIGSTOP");
  }

  close(): void {
    if (this.ended) return;
    this.ended = "closed";
    this.child.kill("SIGKILL");
  }
}

const python = (): string => process.env["JANUS_BENCH_PYTHON"] || "python3";

function start(engine: PeerName, folder: string): Engine {
  const root = join(folder, "..", "..");
  const tsx = pathToFileURL(createRequire(join(root, "package.json")).resolve("tsx")).href;
  const [command, args] =
    engine === "torch"
      ? [python(), [join(folder, "torch_peer.py")]]
      : [process.execPath, ["--no-warnings", "--import", tsx, join(folder, "child.mjs"), engine]];
  const child = spawn(command, args, {
    cwd: root,
    env: { ...process.env, TSX_TSCONFIG_PATH: join(root, "tsconfig.json") },
    stdio: ["pipe", "pipe", "pipe"],
  });
  child.on("error", () => undefined); // reported by "close"
  return new Engine(engine, child);
}

/** Starts the engines one after the other; those that do not start are named with the reason. */
async function startAll(
  folder: string,
  { engines = PEERS, onProgress, signal }: PeerOptions,
): Promise<{ running: Engine[]; skipped: PeerResults["skipped"] }> {
  const running: Engine[] = [];
  const skipped: { engine: PeerName; reason: string }[] = [];
  for (const [i, name] of engines.entries()) {
    signal?.throwIfAborted();
    onProgress?.(i, engines.length, `starting ${name}`);
    const absent = ABSENT[name] ?? (name === "torch" ? withoutPython() : null);
    if (absent) {
      skipped.push({ engine: name, reason: absent });
      continue;
    }
    const engine = start(name, folder);
    const { error, name: title = name, version = "unknown", adapter = null } = await engine.ask(null);
    if (error) {
      engine.close();
      skipped.push({ engine: name, reason: error });
    } else {
      engine.info = { engine: name, name: title, version, adapter };
      running.push(engine);
    }
  }
  return { running, skipped };
}

const withoutPython = (): string | null =>
  spawnSync(python(), ["--version"]).error ? `no ${python()}; set JANUS_BENCH_PYTHON to a Python with torch` : null;

/** Measures all engines on all rows. */
export async function benchPeers(options: PeerOptions): Promise<PeerResults> {
  const folder = requirePeers();
  const rows = peerRows(options.filter);
  const temporary = mkdtempSync(join(tmpdir(), "janus-peers-"));
  const { running, skipped } = await startAll(folder, options);
  const closeAll = (): void => running.forEach((engine) => engine.close());
  options.signal?.addEventListener("abort", closeAll, { once: true });
  try {
    const cells: PeerCell[] = [];
    const engines = running.map(({ info }) => info!);
    for (const [i, row] of rows.entries()) {
      options.signal?.throwIfAborted();
      options.onProgress?.(i, rows.length, row.name);
      cells.push(...(await measureRow(row, running, temporary, options)));
      options.onPeers?.({ engines, skipped, rows: rows.slice(0, i + 1).map(({ name }) => name), cells });
    }
    return { engines, skipped, rows: rows.map(({ name }) => name), cells };
  } finally {
    options.signal?.removeEventListener("abort", closeAll);
    closeAll();
    rmSync(temporary, { recursive: true, force: true });
  }
}

async function measureRow(
  row: Row,
  engines: readonly Engine[],
  folder: string,
  options: PeerOptions,
): Promise<PeerCell[]> {
  const inputs = row.inputs.map((spec, i) => {
    const data = drawInput(spec, options.seed + i);
    const file = join(folder, `input.${i}`);
    writeFileSync(file, data);
    return { shape: spec.shape, file, values: ref(spec.shape, new Float64Array(data)) };
  });
  const reasons = new Map<PeerName, string>();
  for (const engine of engines) {
    const output = join(folder, engine.engine);
    const asked = inputs.map(({ shape, file }) => ({ shape, file }));
    const answer = await engine.ask({ do: "prepare", op: row.peer, inputs: asked, output });
    const wrong = answer.error ?? answer.unsupported ?? wrongResult(row, inputs, answer.outputs ?? [], options.seed);
    if (wrong) reasons.set(engine.engine, wrong);
  }
  const timed = engines.filter(({ engine }) => !reasons.has(engine));
  const rounds = new Map(timed.map(({ engine }) => [engine, [] as number[][]]));
  for (let round = 0; round < options.rounds; round++) {
    for (const engine of timed) {
      options.signal?.throwIfAborted();
      if (reasons.has(engine.engine)) continue;
      const { ms, error } = await engine.ask({ do: "round", seconds: options.seconds / options.rounds });
      if (ms) rounds.get(engine.engine)!.push([...ms]);
      else reasons.set(engine.engine, error ?? "gave no times");
    }
  }
  options.signal?.throwIfAborted(); // it ended the engines: what they answered is no result
  return engines.map(({ engine }): PeerCell => {
    const reason = reasons.get(engine);
    const base = { kind: "peer", row: row.name, engine } as const;
    return reason === undefined ? { ...base, time: spreadOf(rounds.get(engine)!) } : { ...base, time: null, reason };
  });
}

/** Why the results of an engine are not right; null if they are. The bounds are those that ours is held to. */
function wrongResult(
  row: Row,
  inputs: readonly { readonly shape: Shape; readonly values: Ref }[],
  files: readonly string[],
  seed: number,
): string | null {
  const shapes = outputShapes(row);
  const outputs = files.map((file, i) => {
    const bytes = readFileSync(file);
    return ref(shapes[i]!, new Float64Array(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)));
  });
  const odd = shapes.findIndex((shape, i) => outputs[i]?.data.length !== sizeOf(shape));
  if (odd >= 0) return `wrong: result ${odd} has ${outputs[odd]?.data.length ?? 0} elements, right are ${sizeOf(shapes[odd]!)}`; // prettier-ignore
  const parts = row.check(inputs.map(({ values }) => values), outputs, randomFrom(seed)); // prettier-ignore
  const wrong = wrongParts(parts, ["f32"], row.gradients !== undefined);
  return wrong.length ? `wrong: ${wrong.join("; ")}` : null;
}

/** Shapes of the result and of the gradients. */
function outputShapes({ inputs, peer, gradients = [] }: Row): Shape[] {
  const [a, b, , d] = inputs.map(({ shape }) => shape) as [Shape, Shape, Shape, Shape];
  const result = ((): Shape => {
    switch (peer) {
      case "matmul":
        return [a[0]!, b[1]!];
      case "linear":
        return [a[0]!, b[0]!];
      case "conv":
        return [a[0]!, b[0]!, a[2]!, a[3]!];
      case "mlp":
      case "mlpTrain":
        return [a[0]!, d[0]!];
      case "layerNorm":
      case "rmsNorm":
      case "softmax":
      case "attention":
      case "attentionTrain":
      case "chain":
        return a;
      case undefined:
        throw new JanusError("a row without a name among other engines");
    }
  })();
  return [result, ...gradients.map((i) => inputs[i]!.shape)];
}

/** The times as rows, by which baselines and files know them, and what of ours is wrong. */
export function peerRowResults({ cells }: PeerResults): { rows: RowResult[]; wrong: WrongRow[] } {
  const rows = cells.flatMap((cell): RowResult[] =>
    cell.time
      ? [
          {
            kind: "row",
            name: `${cell.row} by ${cell.engine}`,
            op: "peer",
            set: cell.engine,
            dtype: "f32",
            launches: 0,
            flops: 0,
            bytes: 0,
            gpu: null,
            eager: cell.time,
            captured: null,
            cold: null,
            probes: { gflops: [], readGbs: [] },
            rates: null,
            flags: [],
          },
        ]
      : [],
  );
  const wrong = cells.flatMap(({ row, engine, reason }): WrongRow[] =>
    reason !== undefined && engine.startsWith("janus") ? [{ kind: "wrong", name: `${row} by ${engine}`, reasons: [reason] }] : [],
  ); // prettier-ignore
  return { rows, wrong };
}
