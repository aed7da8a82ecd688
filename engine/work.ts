/**
 * How much one dispatch may do. A GPU cannot be interrupted within a dispatch: drivers reset it after a few seconds, and a desktop stands
 * still meanwhile. Slow GPUs do 10¹¹ operations a second and more, so a dispatch of at most that many ends in time everywhere.
 */
import type { Binding, Cost } from "./types.ts";

/**
 * Operations of one dispatch by default (`Device.maxDispatchWork`). Matrix products, convolutions and attention that take more are cut into
 * several launches; any other launch is refused.
 */
export const MAX_DISPATCH_WORK = 1e11;

/** Operations that a launch states: its FLOPs; its bytes if it has none; without a cost the bytes that it binds. */
export function workOf(cost: Cost | null, bindings: readonly Binding[]): number {
  return cost ? cost.flops || cost.bytes : bindings.reduce((sum, { size }) => sum + size, 0);
}
