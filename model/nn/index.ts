/** `nn`: modules, parameters, layers and optimizers. */
export * from "./layers.ts";
export * from "./module.ts";
export * from "./optim/index.ts";
