/** Values out of parsed JSON. */

/** True for what `{…}` in JSON parses to; false for null and arrays. */
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const MAX_SHOWN = 80; // characters

/** A value for a message, on one line and cut. */
export function showJson(value: unknown): string {
  const text = JSON.stringify(value) ?? "undefined";
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
