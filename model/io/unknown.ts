/** Values out of parsed JSON. */

/** True for what `{…}` in JSON parses to; false for null and arrays. */
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const MAX_SHOWN = 80; // characters
/** Levels of a value that messages show: `JSON.stringify` runs out of stack on a value nested 10,000 deep. */
const SHOWN_DEPTH = 3;
const SHOWN_ITEMS = 8;

/** A value for `JSON.stringify`, with its long texts, lists and objects cut. */
export function cutJson(value: unknown, depth = SHOWN_DEPTH): unknown {
  if (typeof value === "string") return value.length > 200 ? `${value.slice(0, 200)}…` : value;
  if (Array.isArray(value))
    return depth === 0 ? "[…]" : (value as unknown[]).slice(0, SHOWN_ITEMS).map((item) => cutJson(item, depth - 1));
  if (!isObject(value)) return value;
  if (depth === 0) return "{…}";
  const entries = Object.entries(value).slice(0, SHOWN_ITEMS);
  return Object.fromEntries(entries.map(([key, item]) => [key, cutJson(item, depth - 1)]));
}

/** A value for a message, on one line and cut. */
export function showJson(value: unknown): string {
  const text = JSON.stringify(cutJson(value)) ?? "undefined";
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text;
}

/** A notice with the names of the keys of `json` that are not in `known`; none if there are none. */
export function unknownKeys(
  json: Readonly<Record<string, unknown>>,
  known: ReadonlySet<string>,
  where: string,
): string[] {
  return unknownNames(
    Object.keys(json).filter((key) => !known.has(key)),
    where,
  );
}

const MAX_NAMED = 12;

/** The same for names that are found to be unknown. */
export function unknownNames(names: readonly string[], where: string): string[] {
  if (names.length === 0) return [];
  const more = names.length > MAX_NAMED ? `, and ${names.length - MAX_NAMED} more` : "";
  const named = names.slice(0, MAX_NAMED).map(showJson).join(", ");
  return [
    `${where}: ${names.length === 1 ? "a key is not known and has" : "keys are not known and have"} no effect: ${named}${more}`,
  ];
}
