/** Update rules: AdamW and SGD for all parameters, Muon for the matrices inside a model. Each parameter group has one rule. */
import { ArgumentError, knownOptions } from "../../../engine/index.ts";
import type { DType, Tensor } from "../../../engine/index.ts";
import { adamw8Step, moments8Shape } from "../../../kernels/optim/adamw8.ts";
import { adamwPair, canPair, isPairable, pairMoments } from "../../../kernels/optim/adamw_pair.ts";
import type { PairTensors } from "../../../kernels/optim/adamw_pair.ts";
import { adamwStep, muonStep, sgdStep } from "../../../kernels/index.ts";
import type { AdamWBetas } from "../../../kernels/index.ts";

/** Items by key, in the order in which keys first appear. */
export function groupBy<T, K>(items: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}

/** A parameter in a step. */
export interface Moving {
  /** Its row in the table of step counts. */
  readonly row: number;
  readonly tensor: Tensor;
  /** f32; the tensor itself if that is f32. */
  readonly master: Tensor;
  /** State tensors of its rule, f32 of its shape, initially zeros. */
  readonly moments: Readonly<Record<string, Tensor>>;
  readonly ema: Tensor | null;
}

export interface StepContext {
  /** f32 [12], see `ADAMW_STATE`: learning rate, clipping factor, whether the step is skipped. */
  readonly state: Tensor;
  /** f32 [parameters, 3]: step counts with their bias corrections. */
  readonly steps: Tensor;
  readonly emaDecay: number;
}

export interface Rule {
  /** Names of its state tensors of each parameter, as in the state dict. */
  readonly moments: readonly string[];
  /** Shape and dtype of its state tensors of a parameter (default: f32 of its shape). */
  readonly momentSpec?: (parameter: Tensor) => { readonly shape: readonly number[]; readonly dtype: DType };
  /** Makes the state tensors of a parameter as views of one tensor, if they are to lie together; else each is a tensor of its own. */
  readonly makeMoments?: (parameter: Tensor) => Readonly<Record<string, Tensor>> | null;
  /** True if it rewrites a 16-bit parameter itself: the optimizer keeps no f32 master of it. */
  readonly isMasterless?: boolean;
  /** Columns of the bias corrections in the table of step counts. */
  readonly betas: AdamWBetas;
  /** Throws `ArgumentError` for a parameter that it cannot move. */
  readonly check?: (parameter: Tensor) => void;
  /** True if it moves all its parameters together, else one by one. */
  readonly isJoint?: boolean;
  /** Moves parameters that have a gradient, with what the step that began in `context.state` says. */
  readonly step: (parameters: readonly Moving[], context: StepContext) => void;
}

export interface AdamWRuleOptions extends AdamWBetas {
  readonly epsilon?: number;
  /** Decoupled: a parameter loses learning rate · weightDecay of itself a step. */
  readonly weightDecay?: number;
}

export const ADAMW_OPTIONS = ["beta1", "beta2", "epsilon", "weightDecay"] as const;

/** AdamW (Loshchilov and Hutter 2019). */
export function adamw(options: AdamWRuleOptions = {}): Rule {
  knownOptions("adamw", options, ADAMW_OPTIONS);
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0 } = options;
  requireDecay("adamw", weightDecay);
  const settings = { beta1, beta2, epsilon, weightDecay };
  return {
    moments: ["m", "v"],
    makeMoments: ({ shape, size, dtype, device }) =>
      dtype === "f32" && canPair(size) ? pairMoments(shape, size, device) : null,
    betas: { beta1, beta2 },
    isJoint: true,
    step: (parameters, { state, steps, emaDecay }) => {
      const all = parameters.map((parameter) => {
        const { m, v } = parameter.moments;
        return { ...sharedOf(parameter), m: m!, v: v!, steps: { table: steps, row: parameter.row } };
      });
      const open: PairTensors[] = [];
      for (const tensors of all) {
        if (tensors.copy || tensors.ema || !isPairable(tensors)) {
          adamwStep(tensors, state, { ...settings, emaDecay });
          continue;
        }
        const other = open.findIndex(({ master }) => master.storage !== tensors.master.storage);
        if (other < 0) open.push(tensors);
        else adamwPair(open.splice(other, 1)[0]!, tensors, state, settings);
      }
      for (const tensors of open) adamwStep(tensors, state, settings);
    },
  };
}

export interface AdamW8RuleOptions extends AdamWRuleOptions {
  /** "bf16": parameters in bf16 have no f32 master and are rounded by chance (default: "f32"). */
  readonly masters?: "f32" | "bf16";
}

/** AdamW with moments of 8 bits in blocks: m is u32 [blocks, 130] with both (`adamw8Step`). */
export function adamw8(options: AdamW8RuleOptions = {}): Rule {
  knownOptions("adamw8", options, [...ADAMW_OPTIONS, "masters"]);
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0, masters = "f32" } = options;
  requireDecay("adamw8", weightDecay);
  if (masters !== "f32" && masters !== "bf16")
    throw new ArgumentError(`adamw8: masters must be "f32" or "bf16"; got ${String(masters)}. Use one of them.`);
  return {
    moments: ["m"],
    isMasterless: masters === "bf16",
    ...(masters === "bf16" && {
      check: (parameter: Tensor) => {
        if (parameter.dtype === "f16")
          throw new ArgumentError(
            `adamw8: a parameter without an f32 master must be bf16 or f32; got ${parameter}. Use masters "f32".`,
          );
      },
    }),
    momentSpec: ({ size }) => ({ shape: moments8Shape(size), dtype: "u32" }),
    betas: { beta1, beta2 },
    step: (parameters, { state, steps, emaDecay }) => {
      for (const parameter of parameters) {
        const table = { table: steps, row: parameter.row };
        const tensors = { ...sharedOf(parameter), moments: parameter.moments["m"]!, steps: table };
        adamw8Step(tensors, state, { beta1, beta2, epsilon, weightDecay, emaDecay });
      }
    },
  };
}

export interface MuonRuleOptions extends AdamWBetas {
  /** μ (default 0.95). */
  readonly momentum?: number;
  readonly weightDecay?: number;
}

/**
 * Muon (Jordan et al. 2024), for matrices except embeddings and heads. Learning rates and weight decays are comparable
 * with AdamW's (`muonStep`).
 */
export function muon(options: MuonRuleOptions = {}): Rule {
  knownOptions("muon", options, ["momentum", "weightDecay", "beta1", "beta2"]);
  const { momentum = 0.95, weightDecay = 0, beta1 = 0.9, beta2 = 0.999 } = options;
  requireDecay("muon", weightDecay);
  if (!(momentum >= 0 && momentum < 1))
    throw new ArgumentError(`muon: momentum must be at least 0 and below 1; got ${momentum}. Change it.`);
  return {
    moments: ["m"],
    betas: { beta1, beta2 },
    isJoint: true,
    check: (parameter) => {
      if (parameter.rank !== 2)
        throw new ArgumentError(`muon: a parameter must be a matrix; got ${parameter}. Give it another rule.`);
    },
    step: (parameters, { state, emaDecay }) => {
      for (const alike of groupBy(parameters, ({ master }) => master.shape.join()).values()) {
        const tensors = alike.map((parameter) => ({ ...sharedOf(parameter), m: parameter.moments["m"]! }));
        muonStep(tensors, state, { momentum, weightDecay, emaDecay });
      }
    },
  };
}

export interface SgdRuleOptions {
  /** μ (default: 0, no momentum buffer). */
  readonly momentum?: number;
  /** Share of the gradient that does not enter the momentum buffer (default: 0). The first gradient enters whole. */
  readonly dampening?: number;
  /** Nesterov's momentum; needs momentum above 0 and no dampening. Default: false. */
  readonly nesterov?: boolean;
  /** Coupled: the gradient gains weightDecay · parameter. Default: 0. */
  readonly weightDecay?: number;
}

export const SGD_OPTIONS = ["momentum", "dampening", "nesterov", "weightDecay"] as const;

/** Stochastic gradient descent with momentum, with the updates of torch.optim.SGD. */
export function sgd(options: SgdRuleOptions = {}): Rule {
  knownOptions("sgd", options, SGD_OPTIONS);
  const { momentum = 0, dampening = 0, nesterov = false, weightDecay = 0 } = options;
  requireDecay("sgd", weightDecay);
  if (!(momentum >= 0 && momentum < Infinity) || !Number.isFinite(dampening))
    throw new ArgumentError(
      `sgd: momentum must be a finite number of at least 0 and dampening a finite number; got ${String(momentum)} and ${String(dampening)}. Change them.`,
    );
  if (nesterov && !(momentum > 0 && dampening === 0))
    throw new ArgumentError(
      `sgd: nesterov needs momentum above 0 and dampening 0; got momentum ${momentum}, dampening ${dampening}. Change them.`,
    );
  return {
    moments: momentum > 0 ? ["m"] : [],
    betas: { beta1: 0.9, beta2: 0.999 }, // of bias corrections, which it does not use
    step: (parameters, { state, steps, emaDecay }) => {
      for (const parameter of parameters) {
        const tensors = {
          ...sharedOf(parameter),
          m: parameter.moments["m"] ?? null,
          steps: { table: steps, row: parameter.row },
        };
        sgdStep(tensors, state, { momentum, dampening, nesterov, weightDecay, emaDecay });
      }
    },
  };
}

const sharedOf = ({
  tensor,
  master,
  ema,
}: Moving): { master: Tensor; grad: Tensor; copy: Tensor | null; ema: Tensor | null } => ({
  master,
  grad: tensor.grad!,
  copy: master === tensor ? null : tensor,
  ema,
});

function requireDecay(rule: string, weightDecay: number): void {
  if (!(weightDecay >= 0 && weightDecay < Infinity))
    throw new ArgumentError(
      `${rule}: weightDecay must be a finite number of at least 0; got ${weightDecay}. Change it.`,
    );
}
