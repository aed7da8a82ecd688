/** The one check of functions that must be synchronous. */
import { ArgumentError } from "./errors.ts";

/** Throws `ArgumentError` if `result` is a promise: what an async function does after its first `await` would not be covered. */
export function refusePromise(result: unknown, what: string): void {
  if (typeof result === "object" && result !== null && "then" in result) {
    throw new ArgumentError(
      `${what} takes a synchronous function: what an async one does after its first await would not be covered; await outside`,
    );
  }
}
