/** Speed of a run: FLOPs of a step, and the peak rate of the device. */
import { Generator, now, scope } from "../../../engine/index.ts";
import type { DType, Device, Tensor } from "../../../engine/index.ts";
import type { Launch } from "../../../engine/types.ts";
import { matmul, uniform } from "../../../kernels/index.ts";
import { CODES_LABEL } from "../../stage0/image_tokenizer.ts";

/**
 * Matches launches in backward of a `checkpoint` that recompute its forward; the labels of its own backward contain the
 * word a second time.
 */
const AGAIN = /^backward:(?:[^:]*\/)?checkpoint\.(?!backward:)/;

/**
 * Adds up the FLOPs that launches state, between `start` and `stop`. The codes of images for later steps are not counted, and what is
 * recomputed in backward is counted once: the model's FLOPs, not those spent.
 */
export class FlopMeter {
  private flops = 0;
  private readonly device: Device;
  private readonly listener: (launch: Launch) => void;

  constructor(device: Device) {
    this.device = device;
    this.listener = ({ label, cost }) => {
      if (cost && !label.startsWith(CODES_LABEL) && !AGAIN.test(label)) this.flops += cost.flops;
    };
  }

  start(): void {
    this.flops = 0;
    this.device.onLaunch(this.listener);
  }

  /** FLOPs since `start`. */
  stop(): number {
    this.device.offLaunch(this.listener);
    return this.flops;
  }
}

/** From here on a product is large enough to show what the device can do. */
const LARGE_MS = 20;
/** Products between two waits. */
const BATCH_MS = 100;
/** How long products run, s. A processor's rate shows in a few products, and each run of a process measures it. */
const SECONDS = 1;
const SOFTWARE_SECONDS = 0.1;

/**
 * FLOP/s of square matrix products in `dtype` at their best: sizes double until one product takes 20 ms, then products run for a second
 * (a tenth on software adapters). Wall time, so a device that others use too gives less. Uses its own random generator and leaves nothing on the device.
 */
export async function matmulCeiling(device: Device, dtype: DType): Promise<number> {
  const seconds = device.capabilities.software ? SOFTWARE_SECONDS : SECONDS;
  const most = Math.min(8192, Math.sqrt(device.limits.maxStorageBufferBindingSize / 4));
  try {
    for (let side = 256; ; side *= 2) {
      const { ms, best } = await products(device, dtype, side, 0);
      if (ms < LARGE_MS && 2 * side <= most) continue;
      return Math.max(best, (await products(device, dtype, side, seconds)).best);
    }
  } finally {
    device.pool.trim();
  }
}

/** One product of [side, side], and then more for `seconds`: how long one takes, and the most FLOP/s. */
async function products(
  device: Device,
  dtype: DType,
  side: number,
  seconds: number,
): Promise<{ ms: number; best: number }> {
  const generator = new Generator(0, { device });
  const draw = (site: number): Tensor => uniform([side, side], -1, 1, { device, dtype, generator, site });
  using a = draw(0);
  using b = draw(1);
  generator.dispose();
  let best = 0;
  const run = async (times: number): Promise<number> => {
    const started = now();
    for (let i = 0; i < times; i++) scope(() => void matmul(a, b));
    await device.sync();
    const ms = now() - started;
    best = Math.max(best, (times * 2 * side ** 3) / (ms / 1000));
    return ms;
  };
  await run(1); // compiles
  const ms = await run(1);
  for (const end = now() + seconds * 1000; now() < end;) await run(Math.max(1, Math.round(BATCH_MS / ms)));
  return { ms, best };
}
