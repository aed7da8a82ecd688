// The package has types for its main entry only, and that entry is CommonJS under the name of a module.
declare module "wgsl_reflect/wgsl_reflect.module.js" {
  export * from "wgsl_reflect";
}
