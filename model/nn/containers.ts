/** Modules in sequence, in a list and by name. Their keys in the state dict are PyTorch's: `0.weight`, `head.weight`. */
import { ArgumentError, shown } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { Module } from "./module.ts";
import type { AnyModule } from "./module.ts";

/** Throws `ArgumentError` if `value` is not a module. */
function requireModule(op: string, value: unknown): void {
  if (value instanceof Module) return;
  const got = Array.isArray(value) ? "an array" : typeof value === "function" ? "a function" : String(value);
  const help = Array.isArray(value) ? "Spread it: ...modules." : "Pass objects of subclasses of Module.";
  throw new ArgumentError(`${op}: modules must be Module objects; got ${got}. ${help}`);
}

/** Modules by position, each in the field of its number. */
abstract class Indexed<M extends AnyModule, Args extends readonly unknown[], Result>
  extends Module<Args, Result>
  implements Iterable<M>
{
  readonly [index: number]: M;
  // Names with # cannot meet the fields of subclasses, also in plain JavaScript.
  #count = 0;

  constructor(modules: Iterable<M>) {
    super();
    if (typeof (modules as Partial<Iterable<M>> | null)?.[Symbol.iterator] !== "function")
      throw new ArgumentError(
        `${this.constructor.name}: modules must be an array of Module objects; got ${shown(modules)}. Pass [first, second].`,
      );
    for (const module of modules) this.append(module);
  }

  get length(): number {
    return this.#count;
  }

  /** Appends a module. Throws `ArgumentError` if it is not a module. */
  append(module: M): this {
    requireModule(this.constructor.name, module);
    this.setChild(String(this.#count), module);
    this.#count++;
    return this;
  }

  /** The module at a position; −1 is the last. */
  at(position: number): M | undefined {
    return this[position < 0 ? this.#count + position : position];
  }

  *[Symbol.iterator](): Generator<M> {
    for (let i = 0; i < this.#count; i++) yield this[i]!;
  }
}

/** Calls its modules in order, each with the result of the previous one: x → … → y. Without modules the result is x. */
export class Sequential extends Indexed<Module, readonly [Tensor], Tensor> {
  constructor(...modules: readonly Module[]) {
    super(modules);
  }

  forward(x: Tensor): Tensor {
    let y = x;
    for (const module of this) y = module.call(y);
    return y;
  }
}

/** A list of modules for a `forward` to call. It has no forward itself. */
export class ModuleList<M extends AnyModule = Module> extends Indexed<M, readonly [], never> {
  constructor(modules: Iterable<M> = []) {
    super(modules);
  }

  protected override get isPassive(): boolean {
    return true;
  }

  forward(): never {
    throw new ArgumentError("ModuleList: it has no forward. Call its modules: for (const layer of list) …");
  }
}

/** Named modules for a `forward` to call. It has no forward itself. */
export class ModuleDict<M extends AnyModule = Module>
  extends Module<readonly [], never>
  implements Iterable<[string, M]>
{
  constructor(modules: Readonly<Record<string, M>> | ReadonlyMap<string, M> = {}) {
    super();
    if (typeof modules !== "object" || modules === null || Array.isArray(modules) || modules instanceof Module)
      throw new ArgumentError(
        `ModuleDict: modules must be an object or a Map of Module objects by name; got ${shown(modules)}. Pass { name: module }.`,
      );
    for (const [name, module] of modules instanceof Map ? modules : Object.entries(modules)) this.set(name, module);
  }

  protected override get isPassive(): boolean {
    return true;
  }

  get size(): number {
    return [...this].length;
  }

  has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  /** Returns the module with a name; undefined if there is none. */
  get(name: string): M | undefined {
    const value = Object.hasOwn(this, name) ? (this as Record<string, unknown>)[name] : undefined;
    return value instanceof Module ? (value as AnyModule as M) : undefined;
  }

  /**
   * Adds a module, or replaces the one with that name. Throws `ArgumentError` if it is not a module, for a name that is
   * empty or has a dot, and for the name of a field or method of ModuleDict.
   */
  set(name: string, module: M): this {
    requireModule("ModuleDict", module);
    if (typeof name !== "string" || name === "" || name.includes("."))
      throw new ArgumentError(
        `ModuleDict: a name must be a text without a dot; got ${JSON.stringify(name)}. Rename it.`,
      );
    if (!this.has(name) && name in this)
      throw new ArgumentError(
        `ModuleDict: "${name}" is the name of a field or method of ModuleDict. Use another name.`,
      );
    this.setChild(name, module);
    return this;
  }

  /** Takes a module out of the dictionary, not disposed; false if there is none of that name. */
  delete(name: string): boolean {
    return this.has(name) && delete (this as Record<string, unknown>)[name];
  }

  keys(): string[] {
    return [...this].map(([name]) => name);
  }

  values(): M[] {
    return [...this].map(([, module]) => module);
  }

  /** Names and modules; names that are numbers come first, as in every JavaScript object. */
  *[Symbol.iterator](): Generator<[string, M]> {
    for (const name of Object.keys(this)) {
      const module = this.get(name);
      if (module) yield [name, module];
    }
  }

  forward(): never {
    throw new ArgumentError('ModuleDict: it has no forward. Call its modules: dict.get("name").call(x).');
  }
}
