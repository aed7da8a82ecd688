/** Stochastic gradient descent over a list of parameters in two groups, with and without weight decay. */
import { knownOptions } from "../../../engine/index.ts";
import type { Tensor } from "../../../engine/index.ts";
import { OPTIMIZER_OPTIONS, Optimizer, entriesOf } from "./optimizer.ts";
import type { OptimizerOptions, OptimizerParameter } from "./optimizer.ts";
import { SGD_OPTIONS, sgd } from "./rules.ts";
import type { SgdRuleOptions } from "./rules.ts";

export interface SGDParameter extends Omit<OptimizerParameter, "rule"> {
  /** False for parameters without weight decay (norms, biases). */
  readonly decay?: boolean;
}

export interface SGDOptions extends OptimizerOptions, SgdRuleOptions {}

/** `Optimizer` with the rule `sgd`: the updates of torch.optim.SGD. */
export class SGD extends Optimizer {
  constructor(parameters: readonly (Tensor | SGDParameter)[], options: SGDOptions = {}) {
    knownOptions("SGD", options, [...OPTIMIZER_OPTIONS, ...SGD_OPTIONS]);
    const { momentum = 0, dampening = 0, nesterov = false, weightDecay = 0, ...shared } = options;
    const ruleOf = (decay: number): OptimizerParameter["rule"] =>
      sgd({ momentum, dampening, nesterov, weightDecay: decay });
    const [decayed, plain] = [ruleOf(weightDecay), ruleOf(0)];
    super(
      entriesOf<SGDParameter>("SGD", parameters, ["decay"]).map(({ decay = true, ...rest }) => ({
        ...rest,
        rule: decay ? decayed : plain,
      })),
      shared,
    );
  }
}
