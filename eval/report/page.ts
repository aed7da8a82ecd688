/** Results as Markdown and as an HTML page: the report's tables with our row, then each benchmark with its figures and its whole recipe. */
import { Document, isMap } from "yaml";
import { html, page, table } from "../../train/node/report/html.ts";
import type { Content, Section } from "../../train/node/report/html.ts";
import type { Result, Results } from "../results.ts";
import type { Figure } from "../score/score.ts";
import type { Benchmark } from "../recipe.ts";
import { reported, shownTables } from "./published.ts";
import type { ShownTable } from "./published.ts";

const digits = (benchmark: string): number => (benchmark === "geneval" ? 3 : 2);

/** `86.20 [85.10, 87.30]`; a dash for a figure that cannot be computed. */
export function figureText({ value, interval }: Figure, places: number): string {
  if (value === null) return "–";
  const range = interval === null ? "" : ` [${interval.low.toFixed(places)}, ${interval.high.toFixed(places)}]`;
  return `${value.toFixed(places)}${range}`;
}

const footnote = (rows: ShownTable["rows"]): string =>
  `${rows.some(({ cells }) => cells[0]!.includes("†")) ? "† uses an external pretrained diffusion model. " : ""}The measured row is of this folder; see its recipe below before comparing.`;

/** All that the figure depends on, as names and values. */
function recipeLines({ about, counts, predictions }: Result): [string, string][] {
  const { file, model } = about;
  return [
    ["model", model ? `${model.name}, ${model.dtype}, fingerprint ${model.fingerprint}` : "none: scores of a file"],
    ["file", `${file.name}, MD5 ${file.md5}`],
    ["expected MD5", file.expectedMd5 ?? "not known"],
    ["items", `${counts.scored} scored of ${counts.items}; ${counts.bad} bad rows${about.limit === null ? "" : `; LIMITED to the first ${about.limit}`}`], // prettier-ignore
    ["SHA-256 of the predictions", predictions ?? "none"],
    ["version", `${about.version}${about.commit ? `, commit ${about.commit}` : ""}`],
    ["changes of the recipe", about.changes.length === 0 ? "none" : about.changes.map(({ path, from, to }) => `${path}: ${JSON.stringify(to)} instead of ${JSON.stringify(from) ?? "nothing"}`).join("; ")], // prettier-ignore
  ];
}

/** The recipe as YAML, one line per text: line breaks and spaces at the ends of templates are seen. */
function recipeText({ about }: Result): string {
  const document = new Document(about.recipe);
  for (const name of ["columns", "scorer", "decoding"]) {
    const part: unknown = document.get(name);
    if (isMap(part)) part.flow = true;
  }
  return document.toString({ blockQuote: false, lineWidth: 0, doubleQuotedMinMultiLineLength: Infinity }).trimEnd();
}

interface Shown {
  readonly benchmark: Benchmark;
  readonly result: Result;
  readonly rows: readonly (readonly string[])[];
  readonly comparison: string;
  readonly warnings: readonly string[];
}

const HEAD = ["figure", "value [95 % interval]", "n"];

function shownResults(results: Results): Shown[] {
  return [...results].map(([benchmark, result]) => {
    const { score, about, notices, counts } = result;
    const places = digits(benchmark);
    const { oneB, sevenB } = reported(benchmark);
    const rows = [score.headline, ...score.figures].map((one) => [one.note ? `${one.name} (${one.note})` : one.name, figureText(one, places), String(one.n)]); // prettier-ignore
    const warnings = [
      ...score.notes,
      ...notices,
      ...(about.changes.length > 0 ? [`the recipe was changed: ${about.changes.map(({ path }) => path).join(", ")}; see below`] : []), // prettier-ignore
      ...(about.limit === null ? [] : [`only the first ${about.limit} were evaluated; not comparable`]),
      ...(counts.bad > 0 ? [`${counts.bad} rows could not be used; see bad.jsonl`] : []),
    ];
    return {
      benchmark,
      result,
      rows,
      comparison: `The report: Janus-Pro-1B ${oneB}, Janus-Pro-7B ${sevenB}`,
      warnings,
    };
  });
}

const title = (result: Result): string => String((result.about.recipe as { title?: string }).title ?? result.about.benchmark); // prettier-ignore

export function resultsPage(results: Results): string {
  const sections: Section[] = shownTables(results).map(({ title: name, head, rows }) => ({
    title: name,
    content: [
      table(head, rows.map(({ isOurs, cells }) => (isOurs ? cells.map((cell): Content => html`<strong>${cell}</strong>`) : cells)), head.map((_, i) => i).slice(1)),
      html`<p class="soft">${footnote(rows)}</p>`,
    ],
  })); // prettier-ignore
  for (const { result, rows, comparison, warnings } of shownResults(results)) {
    sections.push({
      title: `${title(result)}: ${rows[0]![1]!}`,
      content: [
        comparison,
        ...warnings.map((text) => html`<p><strong>Note:</strong> ${text}</p>`),
        table(HEAD, rows, [1, 2]),
        html`<h3>Recipe</h3>`,
        table(["", ""], recipeLines(result), []),
        html`<pre style="overflow-x: auto; font-size: 13px">${recipeText(result)}</pre>`,
      ],
    });
  }
  return page({ title: "Evaluation", summary: `${results.size} benchmarks`, sections });
}

const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");
const markdownTable = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((row) => `| ${row.map(cell).join(" | ")} |`).join("\n");

export function resultsMarkdown(results: Results): string {
  const parts = ["# Evaluation"];
  for (const { title: name, head, rows } of shownTables(results))
    parts.push(`## ${name}`, markdownTable(head, rows.map(({ isOurs, cells }) => (isOurs ? cells.map((one) => `**${one}**`) : cells))), footnote(rows)); // prettier-ignore
  for (const { result, rows, comparison, warnings } of shownResults(results)) {
    parts.push(`## ${title(result)}: ${rows[0]![1]!}`, comparison);
    if (warnings.length > 0) parts.push(warnings.map((text) => `- Note: ${text}`).join("\n"));
    parts.push(markdownTable(HEAD, rows), recipeLines(result).map(([name, value]) => `- ${name}: ${value}`).join("\n")); // prettier-ignore
    parts.push(`\`\`\`yaml\n${recipeText(result)}\n\`\`\``);
  }
  return `${parts.join("\n\n")}\n`;
}
