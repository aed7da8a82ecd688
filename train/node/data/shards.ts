/** Ranges of shards, as WebDataset writes them: `shard-{000000..000127}.tar` stands for 128 files, `{a,b}.parquet` for two. */
import { existsSync } from "node:fs";
import { SourceError } from "../../data/errors.ts";
import type { SourceSpec } from "./sources.ts";

/** Files that one range may stand for. */
const MAX_SHARDS = 100_000;

/** The texts that braces stand for, in order. Without braces the text itself. */
function expand(text: string): string[] {
  const [whole, body] = /\{([^{}]*)\}/.exec(text) ?? [];
  if (whole === undefined || body === undefined) return [text];
  const at = text.indexOf(whole);
  const rest = expand(text.slice(at + whole.length));
  const own = optionsOf(body, text).map((option) => text.slice(0, at) + option);
  if (own.length * rest.length > MAX_SHARDS)
    throw new SourceError(`${text} stands for more than ${MAX_SHARDS} files; split the range`);
  return own.flatMap((start) => rest.map((end) => start + end));
}

function optionsOf(body: string, text: string): string[] {
  const [, first, last] = /^(\d+)\.\.(\d+)$/.exec(body) ?? [];
  if (first === undefined || last === undefined) {
    if (body.includes(",")) return body.split(",");
    throw new SourceError(`${text}: {${body}} must be a range such as {000..127}, or a list such as {a,b}`);
  }
  const [from, to] = [Number(first), Number(last)];
  if (to < from || to - from >= MAX_SHARDS)
    throw new SourceError(`${text}: the range {${body}} must go up, over at most ${MAX_SHARDS} files`);
  const width = first.startsWith("0") ? first.length : 0;
  return Array.from({ length: to - from + 1 }, (_, i) => String(from + i).padStart(width, "0"));
}

/** Sources with each range of files as a source of its own. A path that exists stands for itself. Throws `SourceError`. */
export const expandShards = (specs: readonly SourceSpec[]): SourceSpec[] =>
  specs.flatMap((spec) =>
    typeof spec.path !== "string" || !spec.path.includes("{") || existsSync(spec.path)
      ? [spec]
      : expand(spec.path).map((path) => ({ ...spec, path })),
  );
