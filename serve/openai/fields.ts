/** Bodies of requests: JSON to checked fields. Every field is obeyed, known to have no effect here, or refused by its name. */
import * as z from "zod";
import { invalid } from "../errors.ts";
import type { ApiError } from "../errors.ts";

/** Depth of a body: parts in messages need five levels. */
const MAX_DEPTH = 16;

/** A field that is accepted only with values that change nothing. */
export const neutral = <T extends string | number | boolean>(values: readonly T[], why: string) =>
  z.custom<T>((value) => values.includes(value as T), {
    error: `it must be ${values.map((value) => JSON.stringify(value)).join(" or ")}: ${why}`,
  });

/** An empty list or object. */
export const empty = (why: string) =>
  z.custom<object>((value) => typeof value === "object" && value !== null && Object.keys(value).length === 0, {
    error: `it must be empty: ${why}`,
  });

const wholeNumber = (least: number, most: number) =>
  z.custom<number>((value) => Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most, {
    error: `it must be a whole number from ${least} to ${most}`,
  });

const numberBetween = (least: number, most: number, isOpen = false) =>
  z.custom<number>((value) => typeof value === "number" && (isOpen ? value > least : value >= least) && value <= most, {
    error: `it must be a number ${isOpen ? "above" : "from"} ${least}${isOpen ? ", at most" : " to"} ${most}`,
  });

export const count = (most: number) => wholeNumber(1, most);
export const seed = wholeNumber(0, 0xffffffff);
/** A temperature: 0, or a number that the sampler takes. */
export const temperature = z.custom<number>(
  (value) => value === 0 || (typeof value === "number" && value >= 1e-6 && value <= 2),
  { error: "it must be 0, or a number from 0.000001 to 2" },
);
export const topP = numberBetween(0, 1, true);
export const guidance = numberBetween(-100, 100);
/** A name that does not change the answer. */
export const label = z.string().max(512);

/** Checks the fields of a body. Throws `ApiError` 400 that names the field. */
export function checkFields<T>(schema: z.ZodType<T>, body: unknown): T {
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw invalid("the body must be a JSON object; got another value. Send an object with a model.");
  const result = schema.safeParse(withoutNulls(body, 0));
  if (result.success) return result.data;
  throw fieldError(deepest(result.error.issues));
}

/** Clients send null for fields that they leave out. */
function withoutNulls(value: unknown, depth: number): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (depth > MAX_DEPTH) throw invalid(`the body may have ${MAX_DEPTH} levels; got more. Send a flat object.`);
  if (Array.isArray(value)) return value.map((one) => withoutNulls(one, depth + 1));
  const entries = Object.entries(value).filter(([, one]) => one !== null);
  return Object.fromEntries(entries.map(([key, one]) => [key, withoutNulls(one, depth + 1)]));
}

type Issue = z.core.$ZodIssue;

/** The issue that names a field best: of a union, that of the branch which went deepest. */
function deepest(issues: readonly Issue[]): Issue {
  const [first] = issues as readonly [Issue];
  if (first.code !== "invalid_union") return first;
  const inside = first.errors.flatMap((branch) => {
    const issue = deepest(branch);
    return issue.path.length > 0 || issue.code === "unrecognized_keys" ? [{ ...issue, path: [...first.path, ...issue.path] }] : []; // prettier-ignore
  });
  return inside.toSorted((a, b) => b.path.length - a.path.length)[0] ?? first;
}

const nameOf = (path: readonly PropertyKey[]): string =>
  path.reduce<string>((name, key) => (typeof key === "number" ? `${name}[${key}]` : name ? `${name}.${String(key)}` : String(key)), ""); // prettier-ignore

function fieldError(issue: Issue): ApiError {
  if (issue.code === "unrecognized_keys") {
    const param = nameOf([...issue.path, issue.keys[0]!]).slice(0, 200);
    return invalid(`${param}: this field is not supported. Leave it out.`, param, "unknown_parameter");
  }
  const param = nameOf(issue.path);
  const isMissing = issue.code === "invalid_type" && issue.input === undefined && /undefined/.test(issue.message);
  const what = isMissing ? "it is required" : issue.message.replace(/^Invalid input: /, "it must be: ");
  return invalid(`${param || "the body"}: ${what}.`, param, isMissing ? "missing_parameter" : "invalid_value");
}
