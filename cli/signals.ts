/** Ctrl-C and other signals: the first one asks the command to stop and clean up, the second one ends the process at once. */
import { EXIT, Interrupted } from "./errors.ts";
import type { Output } from "./console.ts";

const SIGNALS = {
  SIGINT: EXIT.interrupted,
  SIGTERM: EXIT.terminated,
  SIGUSR1: EXIT.wentAway, // what schedulers send a while before they take the machine
  SIGHUP: EXIT.hangUp,
} as const;

/**
 * One key press may arrive twice: the terminal sends it to npm and to us, and npm forwards its own to us.
 * A person does not press the keys twice in such a short time.
 */
const SAME_PRESS_MS = 100;

/** The part of `process` that is used, so that tests can replace it. */
export interface SignalSource {
  on(signal: keyof typeof SIGNALS, listener: () => void): unknown;
}

/** Aborts `controller` at the first signal, calls `exit` at the second. */
export function listenForSignals(
  source: SignalSource,
  controller: AbortController,
  out: Output,
  exit: (code: number) => void,
  now: () => number = () => performance.now(),
): void {
  let first: number | null = null;
  const received = (code: number, message: string): void => {
    if (first === null) {
      first = now();
      controller.abort(new Interrupted(message, code));
    } else if (now() - first > SAME_PRESS_MS) {
      out.close();
      exit(code);
    }
  };
  source.on("SIGINT", () => received(SIGNALS.SIGINT, "interrupted"));
  source.on("SIGTERM", () => received(SIGNALS.SIGTERM, "stopped by SIGTERM"));
  source.on("SIGUSR1", () => received(SIGNALS.SIGUSR1, "stopped by SIGUSR1"));
  source.on("SIGHUP", () => received(SIGNALS.SIGHUP, "stopped: the terminal has closed"));
}
