// Code blocks of README.md and the pages of docs/, with what the page says about running them. Plain Node: the check of the package uses it too.
//
// After a block, a page may say in italics why it does not run in the tests: `_Not run by the tests: REASON._`, or
// `_Run by the long tests only: REASON._`. An info string with a name in brackets (```yaml [settings.yaml]) is a file, which
// later blocks of the page may read. A `text` block directly after one that runs is its output: `…` stands for anything.

import { readFileSync, readdirSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { root } from "../setup.mjs";

/** @typedef {{ page: string, line: number, language: string, file: string | null, code: string, skip: string | null, long: string | null, output: string | null }} Block */

/** Languages that are programs. */
export const RUNNABLE = ["sh", "ts"];
/** Languages that are shown. Another name is an error: a program must not escape the tests by `bash` or `typescript`. */
export const SHOWN = ["python", "wgsl", "js", "html", "css", "yaml", "json", "text", ""];

const SKIP = /^_(Not run by the tests|Run by the long tests only): (.+)_$/;

/** Pages that may have blocks: README.md, CONTRIBUTING.md and docs/, without the log and the decisions, which record the past. */
export function pages() {
  const inDocs = readdirSync(join(root, "docs"), { recursive: true })
    .map((path) => join("docs", path).split(sep).join("/"))
    .filter((path) => path.endsWith(".md") && !/^docs\/(log|decisions|\.vitepress)\//.test(path));
  return ["README.md", "CONTRIBUTING.md", ...inDocs.toSorted()];
}

/**
 * The blocks of a page in their order.
 * @param {string} page path from the root of the checkout
 * @returns {Block[]}
 */
export function blocksOf(page, text = readFileSync(join(root, page), "utf8")) {
  const lines = text.split("\n");
  const blocks = [];
  for (let i = 0; i < lines.length; i++) {
    const fence = /^( *)(`{3,})(\w*) *(?:\[(.+)\])?/.exec(lines[i]);
    if (!fence) continue;
    const [, indent, ticks, language, file] = fence;
    const end = lines.findIndex((line, j) => j > i && line === indent + ticks);
    if (end < 0) throw new Error(`${page}:${i + 1}: the code block has no end`);
    const code = lines.slice(i + 1, end).map((line) => (line.startsWith(indent) ? line.slice(indent.length) : line));
    const [kind, reason] = remarkAfter(lines, end + 1);
    const block = {
      page,
      line: i + 1,
      language,
      file: file ?? null,
      code: code.join("\n"),
      skip: kind === "Not run by the tests" ? reason : null,
      long: kind === "Run by the long tests only" ? reason : null,
      output: null,
    };
    const before = blocks.at(-1);
    if (
      language === "text" &&
      !file &&
      before &&
      RUNNABLE.includes(before.language) &&
      onlyBlank(lines.slice(before.end, i))
    )
      before.output = block.code;
    blocks.push({ ...block, end: end + 1 });
    i = end;
  }
  return blocks;
}

const onlyBlank = (lines) => lines.every((line) => line.trim() === "");

/** The remark in italics that follows line `from`, if there is one: its kind and its reason. */
function remarkAfter(lines, from) {
  let first = from;
  while (first < lines.length && lines[first].trim() === "") first++;
  let last = first;
  while (last < lines.length && lines[last].trim() !== "") last++;
  const match = SKIP.exec(
    lines
      .slice(first, last)
      .map((line) => line.trim())
      .join(" "),
  );
  return match ? match.slice(1) : [null, null];
}

/** All blocks of TypeScript that are whole modules, so that they can be compiled. */
export function modules() {
  return pages()
    .flatMap((page) => blocksOf(page))
    .filter(({ language, code }) => language === "ts" && /^import /m.test(code));
}

/** `page:line`, for messages. */
export const placeOf = ({ page, line }) => `${relative(root, join(root, page))}:${line}`;
