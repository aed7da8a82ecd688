/**
 * What a capture makes of its launches before it keeps them: neighbours that a rule can join become one launch. The engine knows launches only;
 * the rule of a kernel (which of its launches compute element by element, and what their joint WGSL is) belongs to the kernel's file.
 */
import type { Device } from "./device.ts";
import { packParams } from "./kernel.ts";
import type { Kernel } from "./kernel.ts";
import type { PoolBuffer } from "./pool.ts";
import type { Binding, Cost, Launch, Storage } from "./types.ts";

/** One launch in place of `count` neighbours. Storages that nothing needs afterwards need not be written. */
export interface Fused {
  readonly count: number;
  readonly kernel: Kernel;
  readonly bindings: readonly Binding[];
  readonly buffers: readonly PoolBuffer[];
  readonly params: Readonly<Record<string, number | readonly number[]>>;
  readonly grid: readonly [number, number, number];
  readonly label: string;
  readonly cost: Cost | null;
}

/**
 * Joins launches from the first of `run` on, all of them of the rule's kernel and next to each other; null if the first must stay alone.
 * `isNeeded(storage, count)`: what the first `count` launches write to `storage` is read after them, or by the user.
 */
export type FusionRule = (
  run: readonly Launch[],
  isNeeded: (storage: Storage, count: number) => boolean,
  device: Device,
) => Fused | null;

const rules = new WeakMap<Kernel, FusionRule>();

/** Has captures join neighbouring launches of `kernel` by `rule`, which must compute the same bits as the launches that it joins. */
export function fuseLaunches(kernel: Kernel, rule: FusionRule): void {
  rules.set(kernel, rule);
}

/** The launches of a capture, joined where a rule can. Call it when the capture's temporaries have been freed. */
export function joinLaunches(device: Device, launches: readonly Launch[]): Launch[] {
  const lastRead = new Map<Storage, number>();
  for (const [i, { pipeline, bindings }] of launches.entries()) {
    const access = Object.values(pipeline.kernel.bindings);
    for (const [b, { storage }] of bindings.entries()) if (access[b] !== "write") lastRead.set(storage, i);
  }
  const joined: Launch[] = [];
  for (let start = 0; start < launches.length;) {
    const first = launches[start]!;
    const rule = rules.get(first.pipeline.kernel);
    let end = start + 1;
    while (rule && end < launches.length && rules.get(launches[end]!.pipeline.kernel) === rule) end++;
    const fused =
      end > start + 1
        ? rule!(
            launches.slice(start, end),
            (storage, count) => storage.isLive || (lastRead.get(storage) ?? -1) >= start + count,
            device,
          )
        : null;
    joined.push(fused ? launchOf(device, fused) : first);
    start += fused?.count ?? 1;
  }
  return joined;
}

function launchOf(device: Device, { kernel, params, bindings, buffers, grid, label, cost }: Fused): Launch {
  const pipeline = device.queue.pipelineOf(kernel);
  return { pipeline, params: packParams(kernel, params), bindings, buffers, grid, label, cost };
}
