/** Optimizers, and schedules of the learning rate. */
export * from "./adamw.ts";
export { Optimizer } from "./optimizer.ts";
export type { OptimizerOptions, OptimizerParameter, OptimizerReport } from "./optimizer.ts";
export { adamw, adamw8, muon, sgd } from "./rules.ts";
export type { AdamWRuleOptions, Moving, MuonRuleOptions, Rule, SgdRuleOptions, StepContext } from "./rules.ts";
export * from "./schedules.ts";
export * from "./sgd.ts";
