/**
 * Stochastic gradient descent with momentum, in place, with the updates of torch.optim.SGD. `adamwPrepare` of AdamW
 * begins the step, clips and skips; the kernel reads its state. The weight decay is coupled: it is added to the
 * gradient.
 */
import { ArgumentError, elementBytes, empty, grid1d, kernel, knownOptions, launch, scope } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";
import { STEP_TENSORS, checkStep, checkSteps } from "./adamw.ts";
import type { AdamWTensors } from "./adamw.ts";

const update = kernel(
  "sgd",
  new URL("./sgd.wgsl", import.meta.url),
  { p: "read_write", m: "read_write", g: "read", copy: "write", ema: "read_write", state: "read", steps: "read" },
  { elements: "u32", momentum: "f32", fresh: "f32", decay: "f32", average: "f32", row: "u32" },
  standard,
);

/** `m` is the momentum buffer, zeros at the start; needed if the momentum is above 0. */
export type SgdTensors = Omit<AdamWTensors, "m" | "v"> & { readonly m?: Tensor | null };

export interface SgdSettings {
  /** μ of m ← μ m + (1 − dampening) g (default: 0, no momentum). */
  readonly momentum?: number;
  /** Default: 0. The first step of a parameter takes its gradient undampened, as PyTorch's does. */
  readonly dampening?: number;
  /** Steps along g + μ m instead of m; needs momentum above 0 and no dampening. Default: false. */
  readonly nesterov?: boolean;
  /** Coupled weight decay: the gradient gains decay · p. Default: 0. */
  readonly weightDecay?: number;
  /** Decay of `ema`, from 0 to 1. */
  readonly emaDecay?: number;
}

const SETTINGS = ["momentum", "dampening", "nesterov", "weightDecay", "emaDecay"] as const;

/**
 * One SGD update of one parameter, in place, with the step that `adamwPrepare` began in `state` (and `adamwCount` counted, with `steps`).
 * Arithmetic is f32.
 * @throws ArgumentError for settings out of range or unknown ones, DTypeError and ShapeError for tensors that do not fit
 */
export function sgdStep(tensors: SgdTensors, state: Tensor, settings: SgdSettings = {}): void {
  knownOptions(
    "sgdStep tensors",
    tensors,
    STEP_TENSORS.filter((name) => name !== "v"),
  );
  knownOptions("sgdStep", settings, SETTINGS);
  const { master, m = null, grad, copy = null, ema = null, steps = null } = tensors;
  const { momentum = 0, dampening = 0, nesterov = false, weightDecay = 0, emaDecay = 0 } = settings;
  checkSettings(settings, m !== null);
  checkStep("sgdStep", tensors, state, { emaDecay });
  if (steps) checkSteps("sgdStep", steps.table, steps.row, 1);
  const device = master.device;
  scope(() => {
    const from = contiguousCopy(grad);
    const spare = copy ?? empty([4], { dtype: "bf16", device });
    const [noMomentum, noAverage, none] = [m, ema, null].map((t) => t ?? empty([4], { device })) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const moved = momentum > 0 ? m : null;
    for (const { count, buffers } of windowsOf("sgdStep", master.size, { p: master, m: moved, g: from, copy, ema })) {
      launch(update, {
        use: { c: spare.dtype },
        constants: {
          MOMENTUM: moved !== null,
          NESTEROV: nesterov,
          COPY: copy !== null,
          EMA: ema !== null,
          OWN: steps !== null,
        },
        buffers: {
          ...buffers,
          m: buffers.m ?? noMomentum,
          copy: buffers.copy ?? spare,
          ema: buffers.ema ?? noAverage,
          state,
          steps: steps?.table ?? none,
        },
        params: {
          elements: count,
          momentum,
          fresh: 1 - dampening,
          decay: weightDecay,
          average: 1 - emaDecay,
          row: steps?.row ?? 0,
        },
        grid: grid1d(Math.ceil(count / 512)),
        cost: {
          flops: (ema ? 11 : 8) * count,
          bytes: (12 + (moved ? 8 : 0) + (ema ? 8 : 0)) * count + (copy ? elementBytes(copy.dtype, count) : 0),
        },
      });
    }
  });
}

function checkSettings(settings: SgdSettings, hasBuffer: boolean): void {
  const { momentum = 0, dampening = 0, nesterov = false, weightDecay = 0 } = settings;
  if (
    !(momentum >= 0 && momentum < Infinity) ||
    !(dampening > -Infinity && dampening < Infinity) ||
    !(weightDecay >= 0 && weightDecay < Infinity)
  )
    throw new ArgumentError(
      `sgdStep: momentum and weight decay must be at least 0 and finite, dampening finite; got ${momentum}, ${weightDecay}, ${dampening}. Change them.`,
    );
  if (nesterov && !(momentum > 0 && dampening === 0))
    throw new ArgumentError(
      `sgdStep: nesterov needs momentum above 0 and dampening 0; got momentum ${momentum}, dampening ${dampening}. Change them.`,
    );
  if (momentum > 0 && !hasBuffer)
    throw new ArgumentError(
      `sgdStep: m must be given with momentum ${momentum}; got none. Make it by zerosLike(master).`,
    );
}
