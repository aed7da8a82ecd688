/** Optimizers: what moves the parameters of a model. */
export * from "./adamw.ts";
export * from "./optimizer.ts";
export { adamw, muon } from "./rules.ts";
export type { AdamWRuleOptions, Moving, MuonRuleOptions, Rule, StepContext } from "./rules.ts";
