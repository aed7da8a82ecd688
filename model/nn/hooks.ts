/** Forward hooks of a module: functions that see, and may replace, what goes into a call and what comes out. */
import { ArgumentError } from "../../engine/index.ts";

/** Returns the arguments to use instead, or nothing. */
export type ForwardPreHook<M, Args> = (module: M, args: Args) => Args | void;
/** Returns the result to use instead, or nothing. */
export type ForwardHook<M, Args, Result> = (module: M, args: Args, result: Result) => Result | void;

/** Removes a hook: by `remove()`, which may be called twice, or at the end of a block with `using`. */
export interface RemovableHandle extends Disposable {
  remove(): void;
}

type AnyHook = (module: unknown, args: never, result: never) => unknown;

/** The hooks of one module, in the order in which they were registered. */
export class Hooks {
  // A hook may be registered twice, hence an object around each.
  private readonly before: { readonly hook: AnyHook }[] = [];
  private readonly after: { readonly hook: AnyHook }[] = [];

  /** Throws `ArgumentError` if `hook` is not a function. */
  add(when: "before" | "after", hook: AnyHook): RemovableHandle {
    if (typeof hook !== "function")
      throw new ArgumentError(`forward hook: a hook must be a function; got ${String(hook)}. Pass (module, args) => …`);
    const list = this[when];
    const entry = { hook };
    list.push(entry);
    const remove = (): void => {
      const at = list.indexOf(entry);
      if (at >= 0) list.splice(at, 1);
    };
    return { remove, [Symbol.dispose]: remove };
  }

  /** Runs the forward of `module` between its hooks. Throws `ArgumentError` if a hook before it returns arguments that are not an array. */
  run<Args extends readonly unknown[], Result>(module: { forward(...args: Args): Result }, args: Args): Result {
    let given = args;
    for (const { hook } of [...this.before]) {
      const replaced = hook(module, given as never, undefined as never);
      if (replaced === undefined) continue;
      if (!Array.isArray(replaced))
        throw new ArgumentError(
          `forward pre-hook: it must return the arguments as an array, or nothing; got ${String(replaced)}. Return [x].`,
        );
      given = replaced as unknown as Args; // what the hook's type promises
    }
    let result = module.forward(...given);
    for (const { hook } of [...this.after]) {
      const replaced = hook(module, given as never, result as never);
      if (replaced !== undefined) result = replaced as Result;
    }
    return result;
  }
}
