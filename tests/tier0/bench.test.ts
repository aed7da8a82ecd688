/** The bench without a device: statistics, baselines, formats of the reports, options of the command. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compareResults } from "../../bench/compare.ts";
import { fromJsonLines, loadBaseline, saveBaseline, toJsonLines } from "../../bench/files.ts";
import { PEERS, requirePeers } from "../../bench/peers.ts";
import type { PeerResults } from "../../bench/peers.ts";
import { peerTable } from "../../bench/peer_reports.ts";
import { htmlReport, markdownReport, textReport } from "../../bench/reports.ts";
import { FORMAT, flagsOf, ratesOf } from "../../bench/results.ts";
import type { Results, RowResult, RunInfo } from "../../bench/results.ts";
import { rooflinePng } from "../../bench/roofline.ts";
import { ROW_SETS, selectRows } from "../../bench/rows/index.ts";
import { PEER_OPS, wrongParts } from "../../bench/rows/row.ts";
import { compareRounds, failsAbove, median, noiseBetweenRuns, spreadOf } from "../../bench/stats.ts";
import { ENGINES, addBench } from "../../cli/bench.ts";
import { DEFAULT_LIMITS, adapterFolder } from "../../index.ts";
import { resultsPage } from "../../scripts/docs/reference/results.ts";
import { runHere } from "../cli.ts";
import { randomFrom } from "../random.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-bench-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

const ceilings = { gflops: 100, readGbs: 10, copyGbs: 12, matrices: {} };
const spread = (ms: number, rounds = 10) => spreadOf(Array.from({ length: rounds }, (_, i) => [ms * (1 + 0.001 * i)]));

function row(name: string, gpuMs: number | null, wallMs = gpuMs ?? 1, rest: Partial<RowResult> = {}): RowResult {
  const gpu = gpuMs === null ? null : spread(gpuMs);
  const eager = spread(wallMs);
  const bare = {
    kind: "row" as const,
    name,
    op: name.split(" ")[0]!,
    set: "table",
    dtype: "f32",
    launches: 1,
    flops: 5e8,
    bytes: 2e7,
    gpu,
    eager,
    captured: null,
    cold: null,
    probes: { gflops: new Array<number>(10).fill(100), readGbs: new Array<number>(10).fill(10) },
    flags: flagsOf(gpu, eager),
    ...rest,
  };
  return { ...bare, rates: ratesOf(bare, ceilings) };
}

const RUN: RunInfo = {
  kind: "run",
  format: FORMAT,
  question: "kernels",
  date: "2026-11-29T00:00:00.000Z",
  adapter: { name: "card-a", vendor: "v", architecture: "a", driver: "driver 1.0" },
  isSoftware: false,
  features: [],
  limits: DEFAULT_LIMITS,
  commit: "abc",
  versions: { janus: "0.1.0", node: "v20" },
  platform: "linux, 2 CPUs",
  settings: { rounds: 10, seconds: 1, seed: 1 },
  ceilings,
  launch: { recordUs: 1, encodeUs: 2, replayUs: 3 },
  coldBytes: 1e8,
};
const results = (rows: readonly RowResult[], run: Partial<RunInfo> = {}): Results => ({
  run: { ...RUN, ...run },
  rows,
  wrong: [],
});

describe("rates", () => {
  it("come from the GPU time if it is within the wall time", () => {
    const { rates, flags } = row("a", 10, 12);
    expect(rates!.gflops).toBeCloseTo(50, 0);
    expect(rates!.flopShare).toBeCloseTo(0.5, 2);
    expect(rates!.readShare).toBeCloseTo(0.2, 2);
    expect(flags).toEqual([]);
  });
  it("are none, and the row is flagged, if the GPU time exceeds the wall time beyond noise", () => {
    expect(row("a", 699, 348)).toMatchObject({ rates: null, flags: ["gpu>wall"] });
  });
  it("name a row whose calls take longer than its GPU time host-bound", () => {
    expect(row("a", 1, 4).flags).toEqual(["host-bound"]);
  });
  it("come from the wall time without timestamps, which is no disagreement", () => {
    const { rates, flags } = row("a", null, 10);
    expect([rates!.gflops > 45, flags]).toEqual([true, []]);
  });
});

/** Round medians of two runs of the same thing, with noise (standard deviation of their logarithms) and outliers. */
function equalRounds(random: () => number, noise = 0.04, rounds = 10): [number[], number[]] {
  const gauss = (): number => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const one = (): number => Math.exp(noise * gauss() + (random() < 0.1 ? 0.5 * random() : 0));
  const make = (): number[] => Array.from({ length: rounds }, one);
  return [make(), make()];
}

describe("comparison", () => {
  it("of equal things gives at most one false alarm in twenty at 5 %, whatever the seed", () => {
    for (let seed = 1; seed <= 5; seed++) {
      const random = randomFrom(seed);
      const alarms = Array.from({ length: 20 }, (_, k) => {
        const [a, b] = equalRounds(random, 0.15); // by chance alone every fourth ratio is above 1.05
        return failsAbove(compareRounds(a, b, { seed: k }), 0.05);
      });
      expect(alarms.filter(Boolean).length, `seed ${seed}`).toBeLessThanOrEqual(1);
    }
  });
  it("finds that something takes 1.3 times as long, and that it is faster the other way round", () => {
    const [a, b] = equalRounds(randomFrom(7));
    const slower = b.map((x) => 1.3 * x);
    const found = compareRounds(a, slower);
    expect([found.verdict, failsAbove(found, 0.05)]).toEqual(["slower", true]);
    expect(found.low).toBeLessThan(1.3);
    expect(found.high).toBeGreaterThan(1.25);
    expect(compareRounds(slower, a).verdict).toBe("faster");
  });
  it("gives no verdict with fewer than five rounds", () => {
    expect(compareRounds([1, 1, 1, 1], [2, 2, 2, 2]).verdict).toBe("same");
    expect(compareRounds([1, 1, 1, 1, 1], [2, 2, 2, 2, 2]).verdict).toBe("slower");
  });
  it("gives the same interval twice", () => {
    const [a, b] = equalRounds(randomFrom(3));
    expect(compareRounds(a, b)).toEqual(compareRounds(a, b));
  });
  it("is no alarm if the difference is real but below the bound", () => {
    const base = Array.from({ length: 10 }, (_, i) => 1 + 0.0001 * i);
    const found = compareRounds(
      base,
      base.map((x) => 1.03 * x),
    );
    expect([found.verdict, failsAbove(found, 0.05), failsAbove(found, 0.01)]).toEqual(["slower", false, true]);
  });
  it("drops what the machine did meanwhile: a run at half its ceilings is not slower", () => {
    const half = (r: RowResult): RowResult => ({
      ...r,
      gpu: spread(20),
      probes: { gflops: new Array<number>(10).fill(50), readGbs: new Array<number>(10).fill(5) },
    });
    const before = row("a", 10, 25);
    const [same] = compareResults([half(before)], results([before])).rows;
    expect(same!.comparison).toMatchObject({ verdict: "same" });
    const [slow] = compareResults([{ ...before, gpu: spread(20) }], results([before])).rows;
    expect(slow!.comparison).toMatchObject({ verdict: "slower" });
  });
  it("estimates noise between runs from rows that did not change, and not from their common shift", () => {
    const ratios = [0.9, 0.95, 0.97, 1, 1.02, 1.05, 1.1, 1.15, 3];
    expect(noiseBetweenRuns(ratios)).toBeGreaterThan(0.04);
    expect(noiseBetweenRuns(ratios.map(() => 1.5))).toBe(0.02);
    expect(noiseBetweenRuns([1, 5])).toBe(0.02);
  });
  it("counts rows of the baseline that were not measured, and leaves new rows without a verdict", () => {
    const { rows, missing } = compareResults([row("b", 1)], results([row("a", 1)]));
    expect([rows[0]!.comparison, missing]).toEqual([undefined, 1]);
  });
  it("has medians of even and odd counts", () => {
    expect([median([3, 1, 2]), median([4, 1, 2, 3])]).toEqual([2, 2.5]);
  });
});

describe("baselines", () => {
  const folder = join(temporary, "baselines");
  const stored = results([row("a", 1)]);

  it("are found by name, for their adapter and question, as they were saved", () => {
    saveBaseline("main", stored, folder);
    expect(loadBaseline("main", RUN, folder)).toEqual(stored);
  });
  it.each([
    ["adapter", { name: "card-b" }, /card-b.*got one of card-a/],
    ["driver", { driver: "driver 2.0" }, /driver 2\.0.*got one of card-a \(driver driver 1\.0\)/],
  ])("of another %s are refused, with both named", (_, changed, message) => {
    const adapter = { ...RUN.adapter, ...changed };
    expect(() => loadBaseline("main", { ...RUN, adapter }, folder)).toThrow(message);
    const file = saveBaseline("main", stored, folder);
    expect(() => loadBaseline(file, { ...RUN, adapter }, folder)).toThrow(message);
  });
  it("of another question, or of no run, are refused", () => {
    expect(() => loadBaseline("main", { ...RUN, question: "train" }, folder)).toThrow(
      /must name a baseline of train; got "main"/,
    );
    const file = saveBaseline("main", stored, folder);
    expect(() => loadBaseline(file, { ...RUN, question: "train" }, folder)).toThrow(/of train; got one of kernels/);
    expect(() => loadBaseline("absent", RUN, folder)).toThrow(/got "absent".*Save one with --save-baseline absent/);
    expect(() => loadBaseline("../main", RUN, folder)).toThrow(/main/);
    expect(() => saveBaseline("a/b", stored, folder)).toThrow(/letters, digits/);
  });
  it.each([
    ["no JSON", "hello\n", /line 1 must be JSON; got "hello"/],
    ["no run", `${JSON.stringify(row("a", 1))}\n`, /must begin with the line of a run/],
    ["another format", `${JSON.stringify({ ...RUN, format: 99 })}\n`, /must have format 1; got format 99/],
    ["an unknown line", `${JSON.stringify(RUN)}\n{"kind":"x"}\n`, /lines must be rows; got kind "x"/],
    ["nothing", "", /must begin with the line of a run/],
  ])("refuse a file with %s", (_, text, message) => {
    expect(() => fromJsonLines(text, "f.jsonl")).toThrow(message);
  });
  it("lie in a folder for each adapter and driver", () => {
    expect(adapterFolder(RUN.adapter)).toBe("card-a-driver-1.0");
    expect(adapterFolder({ ...RUN.adapter, driver: "driver 1.1" })).not.toBe(adapterFolder(RUN.adapter));
  });
});

describe("reports", () => {
  const compared = results([
    row("matmul 8³ f32", 10, 12, { comparison: { ratio: 1.2, low: 1.1, high: 1.3, verdict: "slower" } }),
    row("odd <b>|name", 699, 348, { flops: 100, extra: { "tokens/s": 7 } }),
  ]);
  const all: Results = { ...compared, wrong: [{ kind: "wrong", name: "bad row", reasons: ["result: too far off"] }] };
  const options = { failAbove: 0.05, baseline: { name: "main", run: RUN, runNoise: 0.02 } };

  it("as JSON lines can be read back", () => {
    expect(fromJsonLines(toJsonLines(all), "f")).toEqual(all);
    const [first, ...rest] = toJsonLines(all).trim().split("\n").map((line) => JSON.parse(line) as { kind: string }); // prettier-ignore
    expect([first!.kind, rest.map(({ kind }) => kind)]).toEqual(["run", ["row", "row", "wrong"]]);
    expect(first).toMatchObject({ adapter: RUN.adapter, limits: DEFAULT_LIMITS, commit: "abc", ceilings });
  });
  it("as text name the ceilings, the flags, what failed and what was not timed", () => {
    const text = textReport(all, options);
    for (const part of [
      "100 GFLOP/s f32 multiply-add",
      "10.0 GB/s streaming read",
      "12.0 GB/s streaming copy",
      "GPU > wall",
      "1.20× slower (1.10 to 1.30) FAIL",
      "baseline main",
      "tokens/s",
      "NOT TIMED bad row: result: too far off",
    ])
      expect(text).toContain(part);
  });
  it("as Markdown have as many cells in each line, and say what columns mean", () => {
    const lines = markdownReport(all, options).split("\n").filter((line) => line.startsWith("|")); // prettier-ignore
    expect(lines).toHaveLength(4);
    const cells = lines.map((line) => line.replaceAll("\\|", "").split("|").length);
    expect(new Set(cells).size).toBe(1);
    expect(markdownReport(all)).toMatch(/- \*\*of FMA\*\*: share of this run's multiply-add ceiling/);
  });
  it("as a page have the roofline, escaped names and no script", async () => {
    const text = await htmlReport(all, options);
    expect(text).toContain("<svg");
    expect(text).toContain("odd &lt;b&gt;|name");
    expect(text).not.toMatch(/<b>|<script/);
    for (const title of ["Roofline", "Rows", "Not timed", "Circumstances"]) expect(text).toContain(`<h2>${title}</h2>`);
    expect(text).toContain("driver 1.0");
  });
  it("draw the roofline as a PNG file, and none without rates", async () => {
    const png = await rooflinePng(all);
    expect([...png!.subarray(1, 4)].map((c) => String.fromCharCode(c)).join("")).toBe("PNG");
    expect(await rooflinePng(results([row("a", 699, 348)]))).toBeNull();
  });
  it("of engines show ratios to the shorter of ours, wrong results and who is missing", () => {
    const cell = (engine: (typeof PEERS)[number], ms: number | null, reason?: string) => ({
      kind: "peer" as const,
      row: "matmul",
      engine,
      time: ms === null ? null : spread(ms, 1),
      ...(reason !== undefined && { reason }),
    });
    const info = (engine: (typeof PEERS)[number]) => ({ engine, name: engine, version: "1", adapter: null });
    const peers: PeerResults = {
      engines: [info("janus"), info("janus-captured"), info("jax-js"), info("tfjs"), info("torch")],
      skipped: [{ engine: "torchlette", reason: "not on npm" }],
      rows: ["matmul"],
      cells: [
        cell("janus", 2),
        cell("janus-captured", 1),
        cell("jax-js", 8),
        cell("tfjs", null, "wrong: far off"),
        cell("torch", 0.5),
      ],
    };
    const { rows, notes } = peerTable(peers);
    expect(rows).toEqual([["matmul", "2.00", "1.00", "8.00 (8.00×)", "wrong", "0.500 (0.50×)", "8.00×"]]);
    expect(notes).toEqual(["torchlette: skipped, not on npm", "tfjs, matmul: wrong: far off"]);
    const shown: Results = { ...results([]), run: { ...RUN, question: "peers" }, peers };
    expect(fromJsonLines(toJsonLines(shown), "f")).toMatchObject({ peers: { rows: ["matmul"] } });
    expect(markdownReport(shown)).toContain("| matmul | 2.00 | 1.00 | 8.00 (8.00×) | wrong | 0.500 (0.50×) | 8.00× |");
  });
});

describe("results by device", () => {
  const software = { isSoftware: true, adapter: { ...RUN.adapter, name: "cpu", driver: "cpu 2.0" } };
  const file = (run: Partial<RunInfo>): string => toJsonLines(results([row("matmul 64", 10, 12)], run));
  it("have adapter, driver, date, commit and figures of each run", () => {
    const page = resultsPage({ "a.jsonl": file({}) });
    for (const text of [
      "## card-a (driver driver 1.0)",
      "- driver: driver 1.0",
      "- date: 2026-11-29",
      "- commit: abc",
      "100 GFLOP/s",
    ])
      // prettier-ignore
      expect(page).toContain(text);
    expect(page).toMatch(/\| matmul 64 \| 1 \| 10\.\d/);
    expect(page).not.toContain("no results of a GPU");
  });
  it("say of which devices and questions there are none", () => {
    const page = resultsPage({ "a.jsonl": file(software), "b.jsonl": file({ ...software, question: "train" }) });
    expect(page).toContain("| cpu 2.0, software | 1 rows, 2026-11-29 | no results | 1 rows, 2026-11-29 | no results |");
    expect(page).toContain("There are no results of a GPU.");
    expect(page.match(/^## cpu 2.0, software$/gm)).toHaveLength(1);
  });
});

describe("rows", () => {
  const rows = selectRows({ sets: ROW_SETS });
  it("have names of their own", () => {
    expect(new Set(rows.map(({ name }) => name)).size).toBe(rows.length);
  });
  it("cover what comparisons ask about, and each op of the table of tests", () => {
    const names = rows.map(({ name }) => name).join("\n");
    for (const part of ["matmul 1024³ f32", "matmul 2048³ f32", "ragged", "A·Bᵗ", "bf16", "matrix-vector 1×2048→5632", "layerNorm 1024×2048", "rmsNorm 1024×2048", "softmax 1024×1024", "attention causal B1 H16 T512 D128 f32, forward and backward", "conv2d 3×3 128→128 64²", "MLP 512×1024→4096→1024 gelu f32, forward and backward", "100 chained ops", "codebookLookup", "groupNorm", "adamwStep", "crossEntropy", "embedding"]) expect(names).toContain(part); // prettier-ignore
    expect(rows.filter(({ set }) => set === "ops").length).toBeGreaterThan(80);
    expect(new Set(rows.flatMap(({ peer }) => peer ?? []))).toEqual(new Set(PEER_OPS));
  });
  it("are chosen by name, dtype and set; none is an error that names some", () => {
    expect(selectRows({ filter: "SOFTMAX" }).map(({ name }) => name)).toEqual(["softmax 1024×1024 f32"]);
    expect(selectRows({ dtype: "bf16" }).every(({ name }) => /bf16/.test(name))).toBe(true);
    expect(() => selectRows({ filter: "sofmax" })).toThrow(/must name rows of table; got none.*e\.g\. matmul/);
  });
  it("a result that is off by more than the tests allow is wrong", () => {
    const part = (got: number[]) => [{ name: "result", got, expected: [1, 2, 3], terms: 1 }];
    expect(wrongParts(part([1, 2, 3]), ["f32"], false)).toEqual([]);
    expect(wrongParts(part([1, 2, 3.001]), ["f32"], false)).toEqual([expect.stringMatching(/^result: relative L2 error/)]); // prettier-ignore
    expect(wrongParts(part([1, 2, NaN]), ["f32"], false)).toHaveLength(1);
  });
});

describe("janus bench", () => {
  const wrong: [string, string[], RegExp][] = [
    ["a bound without a baseline", ["--fail-above", "5%"], /--fail-above needs a --baseline/],
    ["a bound that is no percentage", ["--baseline", "x", "--fail-above", "five"], /must be a percentage such as 5%/],
    ["unknown shapes", ["--shapes", "table,huge"], /one or several of table, ops, 1B/],
    ["a filter without rows", ["--filter", "nothing"], /must name rows of table; got none/],
    ["a dtype", ["--dtype", "f64"], /Allowed choices are f32, f16, bf16/],
    ["no rounds", ["--repeat", "0"], /whole number from 1/],
    ["runs against themselves with a baseline", ["--aa", "2", "--baseline", "x"], /leave --baseline/],
    ["a list with a file", ["--list", "--md", "x.md"], /--list writes no file/],
    ["an unknown option", ["--repeats", "3"], /unknown option '--repeats'/],
  ];
  it.each(wrong)("refuses %s before a device is opened", async (_, args, message) => {
    const { code, stdout, stderr } = await runHere(addBench, ["bench", "kernels", ...args]);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(message);
  });
  it("lists rows without a device", async () => {
    const kernels = await runHere(addBench, ["bench", "kernels", "--list", "--filter", "norm"]);
    expect([kernels.code, kernels.stdout.split("\n").slice(0, 2)]).toEqual([
      0,
      ["layerNorm 1024×2048 f32", "rmsNorm 1024×2048 f32"],
    ]);
    const model = await runHere(addBench, ["bench", "model", "--list", "--json"]);
    expect((JSON.parse(model.stdout) as { rows: string[] }).rows).toContain("tiny f32: VQ decoder, one picture");
    const train = await runHere(addBench, ["bench", "train", "--list", "--filter", "stage 2"]);
    expect(train.stdout).toBe("tiny f32: step of stage 2\n");
  });
  it("names the engines that it measures", () => expect(ENGINES).toEqual(PEERS));
  it("measures engines only in a checkout that has them, and says what to do", () => {
    expect(() => requirePeers(null)).toThrow(/must run in a checkout.*got an installed package/);
    mkdirSync(join(temporary, "bench", "peers"), { recursive: true });
    writeFileSync(join(temporary, "bench", "peers", "package.json"), "{}");
    expect(() => requirePeers(temporary)).toThrow(/Run: npm ci --ignore-scripts --prefix bench\/peers/);
  });
  it("keeps the packages of engines out of ours, and names no registry", () => {
    const peers = new URL("../../bench/peers/", import.meta.url);
    const { dependencies } = JSON.parse(readFileSync(new URL("package.json", peers), "utf8")) as { dependencies: object };
    const ours = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as Record<string, object>; // prettier-ignore
    const own = Object.keys({ ...ours["dependencies"], ...ours["devDependencies"], ...ours["optionalDependencies"] });
    expect(Object.keys(dependencies).filter((name) => own.includes(name))).toEqual([]);
    expect(readFileSync(new URL("package-lock.json", peers), "utf8")).not.toMatch(/"resolved"/);
  }); // prettier-ignore
});
