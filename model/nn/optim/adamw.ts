/** AdamW over a list of parameters in two groups, with and without weight decay; matrices marked so by Muon. */
import { knownOptions } from "../../../engine/index.ts";
import type { Tensor } from "../../../engine/index.ts";
import { OPTIMIZER_OPTIONS, Optimizer, entriesOf } from "./optimizer.ts";
import type { OptimizerOptions, OptimizerParameter } from "./optimizer.ts";
import { ADAMW_OPTIONS, adamw, muon } from "./rules.ts";
import type { AdamWRuleOptions } from "./rules.ts";

export interface AdamWParameter extends Omit<OptimizerParameter, "rule"> {
  /** False for parameters without weight decay (norms, biases). */
  readonly decay?: boolean;
  /** A matrix that Muon moves instead of AdamW: one inside the model, no embedding and no head. */
  readonly muon?: boolean;
}

export interface AdamWOptions extends OptimizerOptions, AdamWRuleOptions {
  /** μ of Muon (default 0.95). */
  readonly momentum?: number;
}

/** `Optimizer` with the rule `adamw` for all parameters but those marked `muon`. Weight decay is 0 by default (PyTorch's is 0.01). */
export class AdamW extends Optimizer {
  constructor(parameters: readonly (Tensor | AdamWParameter)[], options: AdamWOptions = {}) {
    knownOptions("AdamW", options, [...OPTIMIZER_OPTIONS, ...ADAMW_OPTIONS, "momentum"]);
    const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0, momentum = 0.95, ...shared } = options;
    const rulesOf = (decay: number): { adamw: OptimizerParameter["rule"]; muon: OptimizerParameter["rule"] } => ({
      adamw: adamw({ beta1, beta2, epsilon, weightDecay: decay }),
      muon: muon({ momentum, beta1, beta2, weightDecay: decay }),
    });
    const [decayed, plain] = [rulesOf(weightDecay), rulesOf(0)];
    super(
      entriesOf<AdamWParameter>("AdamW", parameters, ["decay", "muon"]).map(
        ({ decay = true, muon: isMuon = false, ...rest }) => ({
          ...rest,
          rule: (decay ? decayed : plain)[isMuon ? "muon" : "adamw"],
        }),
      ),
      shared,
    );
  }
}
