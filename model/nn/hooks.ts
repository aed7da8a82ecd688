/** Forward hooks of a module: functions that see, and may replace, what goes into a call and what comes out. */
import { ArgumentError } from "../../engine/index.ts";

// Methods of interfaces and parameters of a generic class: TypeScript compares their parameters both ways, so that a module of known arguments
// stays assignable to a module of any.
interface HookTypes<M, Args, Result> {
  before(module: M, args: Args): Args | void;
  after(module: M, args: Args, result: Result): Result | void;
}

/** Returns the arguments to use instead, or nothing (null is nothing too). */
export type ForwardPreHook<M, Args> = HookTypes<M, Args, unknown>["before"];
/** Returns the result to use instead, or nothing (null is nothing too). */
export type ForwardHook<M, Args, Result> = HookTypes<M, Args, Result>["after"];

/** Removes a hook with `remove()`, which may be called twice, or at the end of a block with `using`. */
export interface RemovableHandle extends Disposable {
  remove(): void;
}

/** A hook of any module. */
type AnyHook = (module: unknown, args: unknown, result: unknown) => unknown;

/** The base of modules that keeps their hooks. */
export abstract class Hookable<Before, After> {
  // An object around each hook, since one may be registered twice; null without hooks. A run goes over a copy: a hook may remove itself.
  #hooks: Readonly<Record<"before" | "after", { readonly hook: AnyHook }[]>> | null = null;

  /**
   * Calls `hook(module, args)` before each forward. An array that it returns replaces the arguments. It runs inside the scope of the call, and
   * once in a captured program. Returns a handle that removes the hook.
   */
  registerForwardPreHook(hook: Before): RemovableHandle {
    return this.addHook("before", hook);
  }

  /**
   * Calls `hook(module, args, result)` after each forward. A value that it returns replaces the result. It runs inside the scope of the call, and
   * once in a captured program: `result.detach().keep()` outlives the scope. Returns a handle that removes the hook.
   */
  registerForwardHook(hook: After): RemovableHandle {
    return this.addHook("after", hook);
  }

  /** True if a call runs hooks: what computes several modules in one launch must then call each of them. */
  get isHooked(): boolean {
    return this.#hooks !== null && this.#hooks.before.length + this.#hooks.after.length > 0;
  }

  private addHook(when: "before" | "after", hook: unknown): RemovableHandle {
    if (typeof hook !== "function")
      throw new ArgumentError(`forward hook: a hook must be a function; got ${String(hook)}. Pass (module, args) => …`);
    const list = (this.#hooks ??= { before: [], after: [] })[when];
    const entry = { hook: hook as AnyHook };
    list.push(entry);
    const remove = (): void => {
      const at = list.indexOf(entry);
      if (at >= 0) list.splice(at, 1);
    };
    return { remove, [Symbol.dispose]: remove };
  }

  /** Runs `forward` between the hooks. Throws `ArgumentError` if a hook before it returns arguments that are not an array. */
  protected withHooks<Args extends readonly unknown[], Result>(args: Args, forward: (...args: Args) => Result): Result {
    if (!this.#hooks) return forward(...args);
    let given = args;
    for (const { hook } of this.#hooks.before.slice()) {
      const replaced = hook(this, given, undefined);
      if (replaced === undefined || replaced === null) continue;
      if (!Array.isArray(replaced))
        throw new ArgumentError(
          `forward pre-hook: it must return the arguments as an array, or nothing; got ${typeof replaced}. Return [x].`,
        );
      given = replaced as unknown as Args; // as the type of the hook says
    }
    let result = forward(...given);
    for (const { hook } of this.#hooks.after.slice()) {
      const replaced = hook(this, given, result);
      if (replaced !== undefined && replaced !== null) result = replaced as Result;
    }
    return result;
  }
}
