/** The table of figures: how it reads, what is a fault in it, and what has become worse. */
import type { Chip } from "./chips.ts";
import type { Figures } from "./figures.ts";

/** Chip → label of a kernel's variant → figures. */
export type Table = Record<string, Record<string, Figures>>;

const COLUMNS = [
  "lanes",
  "registers",
  "spills",
  "scalarSpills",
  "scratch",
  "shared",
  "waves",
  "loop",
  "fma",
  "div",
  "matrix",
] as const satisfies readonly (keyof Figures)[];

/** The committed form: a line for each kernel, so that a change shows as a change of its line. */
export function printTable(table: Table): string {
  const chips = Object.entries(table).map(([name, rows]) => {
    const lines = Object.keys(rows)
      .toSorted()
      .map((label) => `   ${JSON.stringify(label)}: ${JSON.stringify(COLUMNS.map((c) => rows[label]![c]))}`);
    return `  ${JSON.stringify(name)}: {\n${lines.join(",\n")}\n  }`;
  });
  return `{\n "columns": ${JSON.stringify(COLUMNS)},\n "chips": {\n${chips.join(",\n")}\n }\n}\n`;
}

export function parseTable(text: string): Table {
  const { columns, chips } = JSON.parse(text) as { columns: string[]; chips: Record<string, Record<string, number[]>> };
  const figures = (row: number[]): Figures =>
    Object.fromEntries(columns.map((c, i) => [c, row[i]])) as unknown as Figures;
  return mapValues(chips, (rows) => mapValues(rows, figures));
}

const mapValues = <A, B>(of: Record<string, A>, fn: (value: A) => B): Record<string, B> =>
  Object.fromEntries(Object.entries(of).map(([key, value]) => [key, fn(value)]));

/** Kernels that must fill the machine. */
const WIDE = /^(matmul_|attention_)/;
/**
 * Kernels that may be what they are: the reason. Sine and cosine reduce large arguments by a table of digits with an index that is not known
 * when compiling, and no model calls them. On subgroup matrices few warps that hold much were the fastest on an H200 (docs/log/h200.md); attention on
 * AMD was not measured.
 */
const EXCUSED: readonly [RegExp, string][] = [
  [/f:(sin|cos)\.(forward|backward)/, "scratch"],
  [/^(matmul|attention)_subgroup_matrix/, "waves"],
];

/** What a default variant may not be, a line each. */
export function faultsOf(chip: Chip, rows: Readonly<Record<string, Figures>>): string[] {
  const faults: string[] = [];
  for (const [label, f] of Object.entries(rows)) {
    const name = `${chip.name} ${label}`;
    const isExcused = (what: string): boolean => EXCUSED.some(([r, why]) => why === what && r.test(label));
    if (f.spills > 0) faults.push(`${name}: spills ${f.spills} registers`);
    if (f.scratch > 0 && !isExcused("scratch")) faults.push(`${name}: has ${f.scratch} bytes of scratch memory`);
    if (WIDE.test(label) && f.waves < chip.least && !isExcused("waves"))
      faults.push(`${name}: ${f.waves} waves of ${chip.most}, at least ${chip.least} are wanted`);
  }
  return faults;
}

/** Figures that a change may not make worse: by more than this share and this number. */
const WATCHED = { spills: 1, scratch: 1, waves: -1, fma: -1, div: 1, matrix: -1 } as const;
const SLACK = { spills: 0, scratch: 0, waves: 0, fma: 2, div: 0, matrix: 0 } as const;

export function compare(before: Table, now: Table): { worse: string[]; notes: string[] } {
  const worse: string[] = [];
  const notes: string[] = [];
  let unknown = 0;
  for (const [chip, rows] of Object.entries(now))
    for (const [label, f] of Object.entries(rows)) {
      const old = before[chip]?.[label];
      if (!old) {
        unknown++;
        continue;
      }
      for (const key of Object.keys(WATCHED) as (keyof typeof WATCHED)[]) {
        const change = (f[key] - old[key]) * WATCHED[key];
        if (change > SLACK[key]) worse.push(`${chip} ${label}: ${key} ${old[key]}, now ${f[key]}`);
        else if (change < -SLACK[key]) notes.push(`better: ${chip} ${label}: ${key} ${old[key]}, now ${f[key]}`);
      }
    }
  if (unknown) notes.push(`${unknown} pipelines are not in the committed table`);
  return { worse, notes };
}

const HEAD = ["lanes", "registers", "spills", "scratch", "shared", "waves", "loop", "fma %", "div", "matrix", "kernel"];

/** The worst rows first: spills, scratch, few waves, many registers. */
export function textOf(chip: Chip, figures: Readonly<Record<string, Figures>>, rows: number): string {
  const sorted = Object.entries(figures).toSorted(
    ([, a], [, b]) => b.spills - a.spills || b.scratch - a.scratch || a.waves - b.waves || b.registers - a.registers,
  );
  const shown = rows > 0 ? sorted.slice(0, rows) : sorted;
  const cells = shown.map(([label, f]) =>
    [f.lanes, f.registers, f.spills, f.scratch, f.shared, `${f.waves}/${chip.most}`, f.loop, f.fma, f.div, f.matrix]
      .map(String)
      .concat(label),
  );
  const widths = HEAD.map((h, i) => Math.max(h.length, ...cells.map((c) => c[i]!.length)));
  const line = (c: readonly string[]): string =>
    c.map((text, i) => (i === HEAD.length - 1 ? text : text.padStart(widths[i]!))).join("  ");
  return [`\n${chip.name}: ${sorted.length} pipelines`, line(HEAD), ...cells.map(line)].join("\n");
}
