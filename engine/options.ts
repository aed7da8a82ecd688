/** Checks of options objects of ops, layers and optimizers: an unknown name is refused, never ignored. */
import { ArgumentError } from "./errors.ts";

/**
 * Checks that every own key of `options` is in `known`, and suggests the nearest known name. Call it before any work.
 * @param op beginning of the message, e.g. `attention`
 * @throws ArgumentError if `options` is not a plain options object, or has an unknown option
 */
export function knownOptions(op: string, options: object, known: readonly string[]): void {
  // Plain JavaScript passes anything: F.dropout(x, 0.1, 3), F.attention(q, k, v, mask).
  const given: unknown = options;
  if (typeof given !== "object" || given === null || Array.isArray(given) || !isPlain(given))
    throw new ArgumentError(
      `${op}: options must be an object like { ${known[0] ?? ""} }; got ${shown(given)}. ${allOf(known)}`,
    );
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue;
    const nearest = nearestName(name, known);
    throw new ArgumentError(
      `${op}: options must be ${known.join(", ") || "none"}; got ${name}. ${nearest === null ? "Remove it." : `Did you mean ${nearest}?`}`,
    );
  }
}

/**
 * Throws `ArgumentError` if `value` is not a boolean: F.sort(x, -1, { descending: false }) would sort in descending
 * order, since an object counts as true.
 */
export function requireBoolean(op: string, name: string, value: boolean): void {
  if (typeof value !== "boolean")
    throw new ArgumentError(
      `${op}: ${name} must be true or false; got ${shown(value)}. Pass it as a plain argument, not in an options object.`,
    );
}

/** Throws `ArgumentError` if `value` is not an array: x.permute(1, 0) passes a number. */
export function requireArray(op: string, name: string, value: readonly unknown[]): void {
  if (!Array.isArray(value))
    throw new ArgumentError(`${op}: ${name} must be an array; got ${shown(value)}. Put square brackets around it.`);
}

/** Throws `ArgumentError` if `value` is not a function. */
export function requireFunction(op: string, value: unknown): void {
  if (typeof value !== "function")
    throw new ArgumentError(`${op}: the first argument must be a function; got ${shown(value)}. Pass () => ….`);
}

/** Names of the options of type `T`, for `knownOptions`: a missing name does not compile. */
export const optionNames = <T>(names: Readonly<Record<keyof Required<T>, true>>): string[] => Object.keys(names);

const allOf = (known: readonly string[]): string =>
  known.length ? `Known options: ${known.join(", ")}.` : "It has no options.";

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype || Object.getPrototypeOf(prototype) === null;
}

/** Describes a wrong argument in a word or two, for messages. */
export function shown(value: unknown): string {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "object" && value !== null) return `an object of class ${value.constructor.name}`;
  return typeof value === "function" ? "a function" : String(value as number | string | null);
}

/**
 * Returns the name in `known` that is nearest to `name`, or of which one is a prefix of the other, compared without
 * case and underscores; null if there is none.
 */
export function nearestName(name: string, known: readonly string[]): string | null {
  const plain = (text: string): string => text.toLowerCase().replaceAll("_", "");
  const target = plain(name);
  const distances = known.map((other) => editDistance(target, plain(other)));
  const best = Math.min(...distances);
  if (best <= Math.max(2, target.length / 3)) return known[distances.indexOf(best)]!;
  const begins = (long: string, short: string): boolean => short.length >= 3 && long.startsWith(short);
  return known.find((other) => begins(plain(other), target) || begins(target, plain(other))) ?? null;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length]!;
}
