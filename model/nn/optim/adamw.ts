/** AdamW over a list of parameters in two groups, with and without weight decay; matrices marked so by Muon. */
import { ArgumentError, knownOptions, shown } from "../../../engine/index.ts";
import type { Tensor } from "../../../engine/index.ts";
import { OPTIMIZER_OPTIONS, Optimizer, entriesOf } from "./optimizer.ts";
import type { OptimizerOptions, OptimizerParameter } from "./optimizer.ts";
import { ADAMW_OPTIONS, adamw, adamw8, muon } from "./rules.ts";
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
  /** "int8": moments of parameters of at least 4,096 elements take 8 bits each, in blocks of 256. Default: "f32". */
  readonly moments?: "f32" | "int8";
  /** With int8 moments, "bf16": parameters in bf16 whose moments are int8 have no f32 master, and are rounded by chance. Default: "f32". */
  readonly masters?: "f32" | "bf16";
}

/** Smaller parameters are few bytes, and most sensitive (norms, biases): their moments stay f32. */
const MIN_SIZE_8 = 4096;

/** `Optimizer` with the rule `adamw` for all parameters but those marked `muon`. Weight decay is 0 by default (PyTorch's is 0.01). */
export class AdamW extends Optimizer {
  constructor(parameters: readonly (Tensor | AdamWParameter)[], options: AdamWOptions = {}) {
    knownOptions("AdamW", options, [...OPTIMIZER_OPTIONS, ...ADAMW_OPTIONS, "momentum", "moments", "masters"]);
    const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0, momentum = 0.95, moments = "f32", masters = "f32", ...shared } = options; // prettier-ignore
    if (moments !== "f32" && moments !== "int8")
      throw new ArgumentError(`AdamW: moments must be "f32" or "int8"; got ${shown(moments)}. Use one of them.`);
    if (masters !== "f32" && moments !== "int8")
      throw new ArgumentError(`AdamW: masters other than "f32" need moments "int8"; got ${shown(masters)}. Set both.`);
    const rulesOf = (decay: number): Readonly<Record<"adamw" | "adamw8" | "muon", OptimizerParameter["rule"]>> => ({
      adamw: adamw({ beta1, beta2, epsilon, weightDecay: decay }),
      adamw8: adamw8({ beta1, beta2, epsilon, weightDecay: decay, masters }),
      muon: muon({ momentum, beta1, beta2, weightDecay: decay }),
    });
    const [decayed, plain] = [rulesOf(weightDecay), rulesOf(0)];
    super(
      entriesOf<AdamWParameter>("AdamW", parameters, ["decay", "muon"]).map(
        ({ decay = true, muon: isMuon = false, ...rest }) => ({
          ...rest,
          rule: (decay ? decayed : plain)[
            isMuon ? "muon" : moments === "int8" && rest.tensor.size >= MIN_SIZE_8 ? "adamw8" : "adamw"
          ],
        }),
      ),
      shared,
    );
  }
}
