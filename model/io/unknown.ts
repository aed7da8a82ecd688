/** Questions to values of unknown type: what was thrown, and what a file's JSON contains. */

/** The message of whatever was thrown. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** True for what `{…}` in JSON parses to; false for null and arrays. */
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
