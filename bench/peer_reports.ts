/** The table of engines: a row an op, a column an engine, times and how many times as long as the best of ours. */
import { html, table as htmlTable } from "../train/node/report/index.ts";
import type { Html } from "../train/node/report/index.ts";
import { number } from "./columns.ts";
import { table } from "./harness.ts";
import type { PeerCell, PeerInfo, PeerResults } from "./peers.ts";

const OURS = ["janus", "janus-captured"];
/** PyTorch and builds without WebGPU compute with the CPU's own kernels: shown, not the engines to be compared with. */
const LAST = "best WebGPU peer / ours";
const isOnCpu = ({ engine, adapter }: PeerInfo): boolean => engine === "torch" || adapter === "cpu";

export interface PeerTable {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Engines with their versions; then those that are missing, and cells that were not timed, with their reasons. */
  readonly engines: readonly string[];
  readonly notes: readonly string[];
}

/** Times in ms; behind those of the others how many times as long as the shorter of ours. */
export function peerTable({ engines, rows, cells, skipped }: PeerResults): PeerTable {
  const at = (row: string, engine: string): PeerCell | undefined =>
    cells.find((cell) => cell.row === row && cell.engine === engine);
  const onCpu = engines.filter(isOnCpu).map(({ engine }) => engine);
  const shortest = (row: string, isOurs: boolean): number | null => {
    const times = cells.flatMap((cell) =>
      cell.row === row && cell.time && OURS.includes(cell.engine) === isOurs && !onCpu.includes(cell.engine)
        ? [cell.time.medianMs]
        : [],
    );
    return times.length ? Math.min(...times) : null;
  };
  const lines = rows.map((row) => {
    const ours = shortest(row, true);
    const best = shortest(row, false);
    const cellsOf = engines.map(({ engine }) => {
      const cell = at(row, engine);
      if (!cell?.time) return cell?.reason?.startsWith("wrong") ? "wrong" : "-";
      const ms = number(cell.time.medianMs);
      return OURS.includes(engine) || ours === null ? ms : `${ms} (${(cell.time.medianMs / ours).toFixed(2)}×)`;
    });
    return [row, ...cellsOf, ours !== null && best !== null ? `${(best / ours).toFixed(2)}×` : "-"];
  });
  return {
    head: ["row, ms (times ours)", ...engines.map(({ name }) => name), LAST],
    rows: lines,
    engines: engines.map(({ name, version, adapter }) => `${name} ${version}${adapter ? ` on ${adapter}` : ""}`),
    notes: [
      ...skipped.map(({ engine, reason }) => `${engine}: skipped, ${reason}`),
      ...cells.flatMap(({ row, engine, reason }) => (reason === undefined ? [] : [`${engine}, ${row}: ${reason}`])),
    ],
  };
}

export function peerText(results: PeerResults): string {
  const { head, rows, engines, notes } = peerTable(results);
  return [...engines, "", table(head, rows), "", ...notes, ""].join("\n");
}

export function peerMarkdown(results: PeerResults): string {
  const { head, rows, engines, notes } = peerTable(results);
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [
    ...engines.map((text) => `- ${text}`),
    "",
    line(head),
    line(head.map((_, i) => (i ? "---:" : "---"))),
    ...rows.map(line),
    "",
    ...notes.map((text) => `- ${text}`),
    "",
  ].join("\n"); // prettier-ignore
}

/** The table as a section of a page. */
export function peerSection(results: PeerResults): { readonly title: string; readonly content: (string | Html)[] } {
  const { head, rows, engines, notes } = peerTable(results);
  const list = (lines: readonly string[]): Html => html`<ul>${lines.map((text) => html`<li>${text}</li>`)}</ul>`; // prettier-ignore
  return {
    title: "Engines",
    content: [
      "Wall time of a call in ms, median of the medians of rounds in which all engines take turns; in brackets how many times as long as the shorter of ours. Every result was checked against float64 before it was timed.",
      htmlTable(head, rows, head.map((_, i) => i).slice(1)),
      list(engines),
      ...(notes.length ? [list(notes)] : []),
    ],
  };
}
