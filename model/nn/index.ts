/** `nn`: modules, parameters and layers. */
export * from "./layers.ts";
export * from "./module.ts";
