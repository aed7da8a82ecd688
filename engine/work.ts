/**
 * Maximum work of one dispatch. A GPU cannot be interrupted within a dispatch: the desktop freezes, and drivers reset
 * the GPU after a few seconds. Slow GPUs do at least 10¹¹ operations per second, so a dispatch with at most that many
 * ends in time everywhere.
 */
import type { Binding, Cost } from "./types.ts";

/**
 * Default of `Device.maxDispatchWork`, in operations. Matrix products, convolutions and attention with more are split
 * into several launches; any other launch with more is refused.
 */
export const MAX_DISPATCH_WORK = 1e11;

/**
 * Returns the operations of a launch: its stated FLOPs, or its stated bytes if it has no FLOPs, or the bytes that it
 * binds if it has no cost.
 */
export function workOf(cost: Cost | null, bindings: readonly Binding[]): number {
  return cost ? cost.flops || cost.bytes : bindings.reduce((sum, { size }) => sum + size, 0);
}
