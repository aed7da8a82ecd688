/** Dropout with a mask that is computed, not stored. */
import {
  ArgumentError,
  DTypeError,
  checkSite,
  checkTensors,
  defaultDraw,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  knownOptions,
  launch,
  record,
  scope,
} from "../../engine/index.ts";
import type { Generator, Tensor } from "../../engine/index.ts";
import { finite, philox, standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";

const drop = kernel(
  "dropout",
  new URL("./dropout.wgsl", import.meta.url),
  { state: "read", x: "read", y: "write" },
  { granules: "u32", start: "u32", site: "u32", p: "f32", scale: "f32" },
  [...standard, finite, philox],
);

export interface DropoutOptions {
  /**
   * Seed and step of the mask, read from the GPU: a captured step draws other numbers after `setStep`. Default: the numbers of the device, see
   * `manualSeed`, other ones each call.
   */
  readonly generator?: Generator;
  /** Which op of the program draws: give every dropout of a model its own number, else their masks are the same. Needed with a generator. */
  readonly site?: number;
  /** If false, the result is `x` unchanged. Default: true. */
  readonly training?: boolean;
}

/**
 * x [...] → x / (1 − p) where kept, x · 0 with probability p (0, but NaN if x is not finite), of x's dtype and shape. The mask is a function of the generator's state, the
 * site and the element's index; backward recomputes it. `x` itself for p = 0 or without training. Srivastava et al. 2014.
 * @throws ArgumentError for p outside [0, 1) or a site that is no whole number ≥ 0; DTypeError for integers
 */
export function dropout(x: Tensor, p = 0.5, options: DropoutOptions = {}): Tensor {
  checkTensors("dropout", x);
  knownOptions("dropout", options, ["generator", "site", "training"]);
  const { training = true } = options;
  if (!(p >= 0 && p < 1)) throw new ArgumentError(`dropout: p must be a probability in [0, 1); got ${p}. Change it.`);
  if (!isFloat(x.dtype)) throw new DTypeError(`dropout: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  const own = options.generator;
  if (own ? options.site === undefined : options.site !== undefined)
    throw new ArgumentError(
      `dropout: generator and site must be given together; got ${own ? "a generator" : "a site"} alone. Give each dropout of a model its own site, or leave both out.`,
    );
  if (own) {
    checkTensors("dropout", x, own.state);
    checkSite("dropout", options.site!);
  }
  if (!training || p === 0) return x;
  const { generator, site } = own ? { generator: own, site: options.site! } : defaultDraw(x.device);
  const { state } = generator;
  const y = scope(() => masked(x, state, p, site));
  const result = record("dropout", [x], y, [state], (g, [saved]) => [masked(g, saved!, p, site)]);
  if (!own) generator.dispose();
  return result;
}

function masked(x: Tensor, state: Tensor, p: number, site: number): Tensor {
  const source = contiguousCopy(x);
  const y = empty(x.shape, { dtype: x.dtype, device: x.device });
  for (const { start, count, buffers } of windowsOf("dropout", x.size, { x: source, y }, 4)) {
    const granules = Math.ceil(count / 4);
    launch(drop, {
      use: { x: source.dtype, y: y.dtype },
      buffers: { state, ...buffers },
      params: { granules, start: start / 4, site, p, scale: 1 / (1 - p) },
      grid: grid1d(Math.ceil(granules / 64)),
      cost: { flops: 25 * count, bytes: elementBytes(x.dtype, 2 * count) },
    });
  }
  return y;
}
