/** Check of functions that must be synchronous. */
import { ArgumentError } from "./errors.ts";

/** Throws `ArgumentError` if `result` is a promise: the code of an async function after its first `await` would run outside. */
export function refusePromise(result: unknown, what: string): void {
  if (typeof result === "object" && result !== null && "then" in result) {
    throw new ArgumentError(
      `${what}: the function must be synchronous; got one that returned a promise, whose code after the first await would run outside. Await outside.`,
    );
  }
}
