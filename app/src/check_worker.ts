/** The Worker of the device tab: op cases against float64, ceilings, and shares of them. */
import { Probes } from "../../bench/ceilings.ts";
import { Device, profile, scope, setDevice } from "../../engine/index.ts";
import * as F from "../../kernels/index.ts";
import { cases } from "../../tests/cases.ts";
import { caseName, runCase } from "../../tests/harness.ts";
import type { Case } from "../../tests/harness.ts";
import { randomFrom } from "../../tests/random.ts";

export interface DeviceReport {
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  readonly isSoftware: boolean;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
  readonly userAgent: string;
}

export interface CheckReport {
  readonly seed: number;
  readonly rows: number;
  readonly checks: number;
  readonly failures: readonly string[];
}

export interface BenchReport {
  readonly ceilings: { readonly gflops: number; readonly readGbs: number; readonly copyGbs: number };
  readonly rows: readonly {
    readonly name: string;
    readonly ms: number;
    readonly rate: string;
    readonly share: number;
  }[];
}

export type ToChecker =
  | { readonly type: "describe" }
  | { readonly type: "check"; readonly rows: number }
  | { readonly type: "bench" };

export type FromChecker =
  | { readonly type: "device"; readonly report: DeviceReport }
  | { readonly type: "progress"; readonly text: string; readonly share: number }
  | { readonly type: "checked"; readonly report: CheckReport }
  | { readonly type: "measured"; readonly report: BenchReport }
  | { readonly type: "error"; readonly message: string };

const post = (message: FromChecker): void => globalThis.postMessage(message);
let opening: Promise<Device> | null = null;

async function open(): Promise<Device> {
  opening ??= Device.create();
  const device = await opened(opening);
  setDevice(device);
  return device;
}

async function opened(promise: Promise<Device>): Promise<Device> {
  const device = await promise;
  if (!device.isGone) return device;
  opening = Device.create();
  return opening;
}

async function describe(): Promise<void> {
  const { name, vendor, architecture, software, features, limits } = (await open()).capabilities;
  const { userAgent } = navigator;
  const about = { name, vendor, architecture, isSoftware: software, features, limits: { ...limits }, userAgent };
  post({ type: "device", report: about });
}

const SEED = 1;

async function check(count: number): Promise<void> {
  const device = await open();
  const random = randomFrom(SEED);
  const shuffled: Case[] = cases.map((row) => ({ row, at: random() })).sort((a, b) => a.at - b.at).map(({ row }) => row); // prettier-ignore
  const failures: string[] = [];
  let checks = 0;
  for (const [i, row] of shuffled.slice(0, count).entries()) {
    post({ type: "progress", text: caseName(row), share: i / count });
    const result = await runCase(row, device, SEED).catch((error: unknown) => ({
      checks: 0,
      failures: [error instanceof Error ? error.message : String(error)],
    }));
    checks += result.checks;
    failures.push(...result.failures.map((failure) => `${caseName(row)}: ${failure}`));
  }
  post({ type: "checked", report: { seed: SEED, rows: count, checks, failures } });
}

interface Work {
  readonly name: string;
  readonly run: () => void;
  /** Floating-point operations, or bytes moved, as the ceiling counts. */
  readonly amount: number;
  readonly ceiling: keyof BenchReport["ceilings"];
}

function works(device: Device): Work[] {
  const n = device.capabilities.software ? 256 : 2048;
  const [a, b] = [F.randn([n, n], { device }).keep(), F.randn([n, n], { device }).keep()];
  const x = F.randn([device.capabilities.software ? 2 ** 20 : 2 ** 25], { device }).keep();
  const run = (make: () => unknown) => (): void =>
    scope(() => {
      make();
    });
  return [
    { name: `matmul ${n} × ${n} × ${n}, f32`, run: run(() => F.matmul(a, b)), amount: 2 * n ** 3, ceiling: "gflops" },
    { name: "add, f32", run: run(() => F.add(x, x)), amount: 8 * x.size, ceiling: "copyGbs" },
    {
      name: "softmax over rows of 1024, f32",
      run: run(() => F.softmax(x.reshape([-1, 1024]))),
      amount: 8 * x.size,
      ceiling: "copyGbs",
    },
    { name: "sum, f32", run: run(() => F.sum(x)), amount: 4 * x.size, ceiling: "readGbs" },
  ];
}

async function bench(): Promise<void> {
  const device = await open();
  if (!device.capabilities.timestamps)
    throw new Error("This browser has no GPU timestamps (timestamp-query), so nothing can be measured.");
  post({ type: "progress", text: "ceilings", share: 0 });
  using probes = new Probes(device);
  await probes.measure(3);
  const { gflops, readGbs, copyGbs } = probes.ceilings;
  const ceilings = { gflops, readGbs, copyGbs };
  const rows: { name: string; ms: number; rate: string; share: number }[] = [];
  const all = works(device);
  for (const [i, { name, run, amount, ceiling }] of all.entries()) {
    post({ type: "progress", text: name, share: (i + 1) / (all.length + 1) });
    let ms = Infinity;
    for (let k = 0; k < 5; k++) ms = Math.min(ms, (await profile(run, device)).totalMs);
    const rate = amount / ms / 1e6;
    const unit = ceiling === "gflops" ? "GFLOP/s" : "GB/s";
    rows.push({ name, ms, rate: `${rate.toFixed(1)} ${unit}`, share: rate / ceilings[ceiling] });
  }
  post({ type: "measured", report: { ceilings, rows } });
}

addEventListener("message", ({ data }: MessageEvent<ToChecker>) => {
  const work = data.type === "describe" ? describe() : data.type === "check" ? check(data.rows) : bench();
  work.catch((error: unknown) =>
    post({ type: "error", message: error instanceof Error ? error.message : String(error) }),
  );
});
