/** What a run of the bench found, as plain data: what the reports show, files keep and baselines compare. */
import type { AdapterId } from "../index.ts";
import type { Limits } from "../index.ts";
import type { Ceilings } from "./ceilings.ts";
import type { LaunchCost } from "./launches.ts";
import type { PeerResults } from "./peers.ts";
import { compareRounds } from "./stats.ts";
import type { Comparison, Spread } from "./stats.ts";

export const QUESTIONS = ["kernels", "model", "train", "peers"] as const;
export type Question = (typeof QUESTIONS)[number];

/** Format of the files; a reader refuses others. */
export const FORMAT = 1;

/** The first line of a file of results. */
export interface RunInfo {
  readonly kind: "run";
  readonly format: typeof FORMAT;
  readonly question: Question;
  /** ISO 8601. */
  readonly date: string;
  readonly adapter: AdapterId;
  readonly isSoftware: boolean;
  readonly features: readonly string[];
  readonly limits: Limits;
  /** Commit of the checkout, with "+" if files were changed; null outside a checkout. */
  readonly commit: string | null;
  readonly versions: Readonly<Record<string, string>>;
  readonly platform: string;
  readonly settings: Settings;
  readonly ceilings: Ceilings;
  readonly launch: LaunchCost | null;
  /** Bytes that cold calls rotate through; null if no row was measured cold. */
  readonly coldBytes: number | null;
  /** Why rows or rounds are missing; left out if the run is complete. */
  readonly incomplete?: string;
}

export interface Settings {
  readonly rounds: number;
  readonly seconds: number;
  readonly seed: number;
}

/** How fast, and as shares of the run's ceilings: the larger share shows what bounds it. */
export interface Rates {
  readonly gflops: number;
  readonly gbytesPerSecond: number;
  readonly flopShare: number;
  readonly readShare: number;
  readonly copyShare: number;
}

/** What is to be kept in mind with a row. */
export type Flag =
  /** GPU time exceeds wall time, which cannot be: other work ran between the timestamps. No rates are given. */
  | "gpu>wall"
  /** Calls take 1.5 times the GPU time or more: the host bounds them. */
  | "host-bound";

/** A row and the work of one call. */
export interface RowWork {
  readonly name: string;
  readonly op: string;
  readonly set: string;
  readonly dtype: string;
  readonly launches: number;
  /** As the launches state them. */
  readonly flops: number;
  readonly bytes: number;
}

export interface RowResult extends RowWork {
  readonly kind: "row";
  /** GPU time of all launches of a call, by timestamps; null without them. */
  readonly gpu: Spread | null;
  /** Wall time of a call: run op by op; replayed from a capture (null if it cannot be captured); op by op with cold caches. */
  readonly eager: Spread;
  readonly captured: Spread | null;
  readonly cold: Spread | null;
  /** What the machine reached in each round: GFLOP/s and GB/s. */
  readonly probes: { readonly gflops: readonly number[]; readonly readGbs: readonly number[] };
  readonly rates: Rates | null;
  readonly flags: readonly Flag[];
  /** Figures of this question alone, e.g. tokens/s, by their name with its unit. */
  readonly extra?: Readonly<Record<string, number>>;
  /** Against a baseline. */
  readonly comparison?: Comparison;
}

/** A row that was not timed: its result is not right, or it could not run. */
export interface WrongRow {
  readonly kind: "wrong";
  readonly name: string;
  readonly reasons: readonly string[];
}

/** What was measured. */
export interface Found {
  readonly rows: readonly RowResult[];
  readonly wrong: readonly WrongRow[];
  /** Set for `peers`: the engines that were measured, and the outcome of each; their times are also in `rows`. */
  readonly peers?: PeerResults;
}

export interface Results extends Found {
  readonly run: RunInfo;
}

/** Clocks of GPU and host differ by less. */
const DISPUTED = 1.02;
const HOST_BOUND = 1.5;

/** The time that a row is known by: on the GPU if there are timestamps that can be, else the shortest wall time of a call. */
export function timeOf({ gpu, eager, captured, flags }: Omit<RowResult, "rates">): Spread {
  return gpu && gpu.medianMs > 0 && !flags.includes("gpu>wall") ? gpu : wallOf({ eager, captured });
}

/** Wall time of a call in the shorter of its two ways. */
export const wallOf = ({ eager, captured }: Pick<RowResult, "eager" | "captured">): Spread =>
  captured && captured.medianMs < eager.medianMs ? captured : eager;

/** Whether GPU time and wall time of the same rounds contradict each other, or show that the host is the bound: beyond noise. */
export function flagsOf(gpu: Spread | null, wall: Spread): Flag[] {
  if (!gpu || gpu.medianMs === 0) return [];
  const { ratio, verdict } = compareRounds(wall.rounds, gpu.rounds, { isPaired: true });
  if (verdict === "slower" && ratio > DISPUTED) return ["gpu>wall"];
  return verdict === "faster" && ratio < 1 / HOST_BOUND ? ["host-bound"] : [];
}

/** Rates of a row from its GPU time, or without timestamps from its wall time; null if the two contradict each other. */
export function ratesOf(row: Omit<RowResult, "rates">, ceilings: Ceilings): Rates | null {
  const ms = timeOf(row).medianMs;
  if (row.flags.includes("gpu>wall") || !(ms > 0)) return null;
  const [gflops, gbytesPerSecond] = [row.flops / ms / 1e6, row.bytes / ms / 1e6];
  return {
    gflops,
    gbytesPerSecond,
    flopShare: gflops / ceilings.gflops,
    readShare: gbytesPerSecond / ceilings.readGbs,
    copyShare: gbytesPerSecond / ceilings.copyGbs,
  };
}
