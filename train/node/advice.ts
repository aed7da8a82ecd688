/** Warnings, before the first step, about settings that are valid but make a run useless. */
import type { TokenizerConfig, TrainConfig } from "../config.ts";

/** Warnings about settings, a line each; none for settings that fit together. */
export function adviceOn(config: TrainConfig | TokenizerConfig): string[] {
  const { steps, stopAt = steps, optimizer } = config;
  const { warmup, cooldown, lr } = optimizer;
  const last = Math.min(steps, stopAt);
  const advice: string[] = [];
  if (warmup >= last)
    advice.push(
      `optimizer.warmup is ${warmup} steps and the run ends after ${last}: the learning rate only reaches ${((lr * last) / warmup).toExponential(1)} of ${lr.toExponential(1)}. Set optimizer.warmup to a few percent of the steps`,
    );
  else if (warmup + cooldown > steps)
    advice.push(
      `optimizer.warmup and optimizer.cooldown are ${warmup + cooldown} steps together and the run has ${steps}: the learning rate never reaches ${lr.toExponential(1)}. Make them shorter`,
    );
  return advice;
}
