/** True for what `{…}` in JSON parses to; false for null and arrays. */
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
