/** The tables of the Janus-Pro report, with a row for our figures. */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import type { Result, Results } from "../results.ts";
import type { Benchmark } from "../recipe.ts";

interface PublishedTable {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly {
    readonly model: string;
    readonly size?: string;
    readonly values: readonly (number | null)[];
  }[];
}

export const TABLES = ["understanding", "geneval", "dpg"] as const;

const published = (): Record<(typeof TABLES)[number], PublishedTable> =>
  parse(readFileSync(new URL("../published.yaml", import.meta.url), "utf8")) as ReturnType<typeof published>;

const NAMES: Readonly<Record<string, string>> = {
  pope: "POPE", mme: "MME-P", mmbench: "MMB", seed: "SEED", gqa: "GQA", mmmu: "MMMU", mmvet: "MM-Vet",
  single_object: "Single", two_object: "Two", counting: "Counting", colors: "Colors", position: "Position",
  color_attr: "Color attr.", overall: "Overall", global: "Global", entity: "Entity", attribute: "Attribute",
  relation: "Relation", other: "Other",
}; // prettier-ignore

export interface ShownTable {
  readonly title: string;
  readonly head: readonly string[];
  /** Ours first, if there is one. */
  readonly rows: readonly { readonly isOurs: boolean; readonly cells: readonly string[] }[];
}

/** The tables of which results has at least one figure. */
export function shownTables(results: Results): ShownTable[] {
  const tables = published();
  return TABLES.flatMap((name) => {
    const { title, columns, rows } = tables[name];
    const ours = columns.map((column) => ourFigure(results, name, column));
    if (ours.every((value) => value === null)) return [];
    const digits = (column: string): number => (name === "understanding" ? 1 : name === "geneval" ? 2 : column === "" ? 0 : 2); // prettier-ignore
    const cell = (value: number | null, i: number): string =>
      value === null ? "–" : value.toFixed(digits(columns[i]!));
    const model = [...results.values()].find(({ about }) => about.model)?.about.model?.name ?? "these results";
    return [
      {
        title,
        head: ["model", ...columns.map((column) => NAMES[column] ?? column)],
        rows: [
          { isOurs: true, cells: [`${model} (measured)`, ...ours.map(cell)] },
          ...rows.map((row) => ({
            isOurs: false,
            cells: [`${row.model}${row.size ? ` ${row.size}` : ""}`, ...row.values.map(cell)],
          })),
        ],
      },
    ];
  });
}

function ourFigure(results: Results, table: (typeof TABLES)[number], column: string): number | null {
  if (table === "understanding") return results.get(column as Benchmark)?.score.headline.value ?? null;
  const result: Result | undefined = results.get(table);
  if (!result) return null;
  if (column === "overall") return result.score.headline.value;
  return result.score.figures.find(({ name }) => name === column)?.value ?? null;
}

/** The report's figures of a benchmark, for the line beside ours. */
export function reported(benchmark: Benchmark): { readonly oneB: number; readonly sevenB: number } {
  const tables = published();
  const { columns, rows } = benchmark === "geneval" || benchmark === "dpg" ? tables[benchmark] : tables.understanding;
  const at = columns.indexOf(benchmark in tables ? "overall" : benchmark);
  const of = (model: string): number => rows.find((row) => row.model === model)!.values[at]!;
  return { oneB: of("Janus-Pro-1B"), sevenB: of("Janus-Pro-7B") };
}
