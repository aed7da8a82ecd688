/** Warnings, before the first step, about settings and sources that are valid but make a run useless or not the intended one. */
import { resolve } from "node:path";
import type { SourceSpec } from "./data/sources.ts";
import type { TokenizerConfig, TrainConfig } from "../config.ts";

/** Warnings about sources that are listed twice, as by overlapping patterns of a shell: their records come twice as often. */
export function adviceOnSources(sources: readonly SourceSpec[]): string[] {
  const keys = sources.map(({ path, task = "" }) => `${task} ${resolve(path)}`);
  const repeated = sources.filter((_, i) => keys.indexOf(keys[i]!) !== i);
  return [...new Set(repeated.map(({ path }) => path))].map(
    (path) =>
      `${path} is listed more than once: its records come that much more often. List it once if that is not meant`,
  );
}

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
