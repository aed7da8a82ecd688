/** Rounds of rows whose gradients wait in host memory until the last one, so that they add up as on one device. */
import { tensor, zeroGradients } from "../../engine/index.ts";
import type { Parameter } from "../../model/nn/module.ts";
import type { Between } from "./segments.ts";
import type { Shards } from "./shards.ts";
import { readGradient } from "./sums.ts";
import type { GradientSums } from "./sums.ts";

/** Buckets of gradients that may wait to be sent while backward of the next layers is launched. */
const BUCKETS_BEHIND = 8;
const NO_BYTES = Promise.resolve(null);

export interface RoundsParts {
  readonly shards: Shards;
  /** As `unitsOf` lists them. */
  readonly units: readonly (readonly Parameter[])[];
  readonly sums: GradientSums;
  /** How many parameters are complete when backward has passed a unit. */
  readonly completeAfter: (unit: number) => number;
}

export class Rounds {
  private readonly parts: RoundsParts;
  private readonly waiting = new Map<Parameter, Promise<Uint8Array | null>>();

  constructor(parts: RoundsParts) {
    this.parts = parts;
  }

  /** What happens between the layers in a round. `isIdle`: this rank has no rows in it. */
  between({ isIdle, isLast }: { readonly isIdle: boolean; readonly isLast: boolean }): Between {
    const { shards } = this.parts;
    return {
      ask: (unit) => shards.ask(unit),
      gather: (unit) => shards.gather(unit),
      evict: (unit) => shards.evict(unit),
      restoreGradients: async (unit) => {
        if (!isIdle) await this.restore(unit);
      },
      takeGradients: (unit) => this.take(unit, isLast),
    };
  }

  private async restore(unit: number): Promise<void> {
    for (const parameter of this.parts.units[unit]!) {
      const { shape, device } = parameter;
      const bytes = await this.waiting.get(parameter);
      this.waiting.delete(parameter);
      if (bytes) parameter.grad = tensor(new Float32Array(bytes.slice().buffer), { shape, device }).keep();
      await device.throttle();
    }
  }

  private async take(unit: number, isLast: boolean): Promise<void> {
    const { units, sums, completeAfter } = this.parts;
    for (const parameter of units[unit]!) {
      const before = this.waiting.get(parameter);
      if (!isLast) this.waiting.set(parameter, parameter.grad ? readGradient(parameter) : (before ?? NO_BYTES));
      else if (before) sums.give(parameter, before);
    }
    if (!isLast) return zeroGradients(units[unit]!);
    sums.ready(completeAfter(unit));
    await sums.settle(BUCKETS_BEHIND);
  }
}
