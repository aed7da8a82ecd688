/** Failures put into a step of training: at any launch, at any allocation. */
import { OutOfMemoryError } from "../index.ts";
import type { Device } from "../index.ts";

/** What the n-th launch or allocation throws. */
export class Injected extends OutOfMemoryError {}

export interface Counts {
  launches: number;
  allocations: number;
}

/** Runs `fn` and counts what it launches and allocates; throws `Injected` at the given launch or allocation (from 1). */
export async function injecting<T>(
  device: Device,
  at: Partial<Counts>,
  fn: () => Promise<T>,
): Promise<{ result: T; counts: Counts }> {
  const counts: Counts = { launches: 0, allocations: 0 };
  const count = (kind: keyof Counts): void => {
    if (++counts[kind] === at[kind]) throw new Injected(`${kind} ${at[kind]}: no memory`);
  };
  const listener = (): void => count("launches");
  const { pool } = device;
  const acquire = pool.acquire.bind(pool);
  device.onLaunch(listener);
  pool.acquire = (...args) => {
    count("allocations");
    return acquire(...args);
  };
  try {
    return { result: await fn(), counts };
  } finally {
    device.offLaunch(listener);
    pool.acquire = acquire;
  }
}

/** About `count` numbers from 1 to `last`, both included, more of them near the end, which is the optimizer. */
export const spread = (last: number, count: number): number[] => [
  ...new Set(Array.from({ length: count }, (_, i) => Math.round(1 + (last - 1) * (1 - (1 - i / (count - 1)) ** 2)))),
];
