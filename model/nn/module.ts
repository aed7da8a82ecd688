/**
 * Modules: objects whose fields are parameters and other modules. The path of a field (`layers.0.mlp.up_proj.weight`) is its key in the
 * state dict, so fields carry the names of the checkpoint. A parameter may have several paths (tied weights), but it is
 * one parameter.
 */
import {
  ArgumentError,
  currentLabel,
  elementBytes,
  knownOptions,
  noGrad,
  noGradDepth,
  scope,
  sameShape,
  shapeText,
  shown,
  watchLeaves,
  withLabel,
  zeroGradients,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { castInto } from "../../kernels/index.ts";
import { Hookable } from "./hooks.ts";
import type { ForwardHook, ForwardPreHook } from "./hooks.ts";
import { Buffer, Parameter, isOwned } from "./parameter.ts";
import type { Owned } from "./parameter.ts";
import { StateDictError, haveSameBits, isSameView, problemsOf, requireState } from "./state_dict.ts";
import type { StateDict } from "./state_dict.ts";

export { Buffer, Parameter } from "./parameter.ts";
export { StateDictError } from "./state_dict.ts";
export type { StateDict } from "./state_dict.ts";

/** A module with any arguments and result. */
export type AnyModule = Module<never, unknown>;

/** An outermost `call`, and the modules and parameters that it may use. */
interface OutermostCall {
  readonly module: AnyModule;
  readonly args: readonly unknown[];
  /** `noGrad` around it. */
  readonly noGrads: number;
  /** What the last search found below the module, and the modules in `args`; null before the first search. */
  below: Search | null;
  given: ReadonlySet<AnyModule> | null;
}

let outermost: OutermostCall | null = null;

/**
 * A part of a model: its fields that are parameters, buffers or modules have the names of their state-dict keys. Subclasses
 * write `forward`; callers use `call`, which frees the temporaries of `forward` and runs the hooks.
 */
export abstract class Module<Args extends readonly unknown[] = readonly [Tensor], Result = Tensor> extends Hookable<
  ForwardPreHook<Module<Args, Result>, Args>,
  ForwardHook<Module<Args, Result>, Args, Result>
> {
  /** False after `eval()`: dropout and the like are off. */
  training = true;
  // Names with # cannot meet the fields of subclasses, also in plain JavaScript.
  #label = "";
  #named = false;
  #entered = false;

  /** @throws ArgumentError for an argument: `new nn.ReLU({ inplace: true })` comes here, as ReLU has no constructor of its own */
  constructor(...none: readonly never[]) {
    super();
    const [extra] = none as readonly unknown[];
    if (none.length)
      throw new ArgumentError(`${new.target.name}: there must be no further argument; got ${shown(extra)}. Remove it.`);
  }

  abstract forward(...args: Args): Result;

  /**
   * Runs `forward` in its own scope: its tensors are freed, except the result and those saved by the tape. Launches
   * record the module's path. Throws `ArgumentError` if `forward` called a module or recorded a parameter that is
   * neither below the outermost called module nor in its `args`: it would be neither trained nor saved, nor reached by
   * `train` and `eval`. Inside `noGrad` within a forward any module may be called: a teacher is another model.
   */
  call(...args: Args): Result {
    if (!this.#named) this.#nameChildren("");
    const run = (): Result => scope(() => this.withHooks(args, (...given) => this.forward(...given)));
    const labelled = (): Result => (this.#label ? withLabel(this.#label, run) : run());
    if (!outermost) return this.#callOutermost(args, labelled);
    requireModule(outermost, this as AnyModule);
    return labelled();
  }

  /** The modules in this module's fields, by path: `mlp`, `layers.0`. A module with two paths has the first. */
  *children(): Generator<[string, AnyModule]> {
    const seen = new Set<AnyModule>();
    for (const [name, value] of ownedBy(this as AnyModule)) {
      if (!(value instanceof Module) || seen.has(value)) continue;
      seen.add(value);
      yield [name, value];
    }
  }

  /**
   * All parameters below this module with their paths, without buffers, in the order of the fields. A parameter with several paths (tied weights) comes once,
   * under the first, and so do parameters made of one tensor; `ArgumentError` if they overlap otherwise. Searched are fields, arrays, plain objects and Maps with string keys, nested too; throws `ArgumentError` for a module or
   * parameter in a Set, or under a key that is no string or has a dot.
   */
  *namedParameters(prefix = ""): Generator<[string, Parameter]> {
    const seen = new Set<Owned>();
    for (const [name, , first] of this.#allNames(prefix)) {
      if (seen.has(first) || first instanceof Buffer) continue;
      seen.add(first);
      yield [name, first];
    }
  }

  /** All buffers below this module with their paths, each once, in the order of the fields. */
  *namedBuffers(prefix = ""): Generator<[string, Buffer]> {
    const seen = new Set<Owned>();
    for (const [name, , first] of this.#allNames(prefix)) {
      if (seen.has(first) || !(first instanceof Buffer)) continue;
      seen.add(first);
      yield [name, first];
    }
  }

  /** All parameters below this module, each once. */
  parameters(): Parameter[] {
    return [...this.namedParameters()].map(([, p]) => p);
  }

  /** The parameters and buffers by path, tied ones under each of their paths, as in PyTorch. They are the module's own, not copies. */
  stateDict(): Record<string, Owned> {
    return Object.fromEntries([...this.#allNames("")].map(([name, owned]) => [name, owned]));
  }

  /**
   * Copies the tensors of `state` into the parameters and buffers of the same path (cast to their dtype). With `strict` every key must be on both
   * sides; of the paths of a tied parameter one is enough. Throws `StateDictError` that lists every missing, unexpected and misshapen key
   * before anything is copied. The copies are launched when this returns, unless a tied parameter is given by several different tensors:
   * these are compared first, and the promise rejects with `StateDictError` if their values differ.
   */
  loadStateDict(state: StateDict, options: { strict?: boolean } = {}): Promise<void> {
    knownOptions("loadStateDict", options, ["strict"]);
    requireState(state);
    const paths = new Map<Owned, string[]>();
    for (const [name, , first] of this.#allNames("")) paths.set(first, [...(paths.get(first) ?? []), name]);
    const { strict = true } = options;
    const known = new Set([...paths.values()].flat());
    const unexpected = Object.keys(state).filter((k) => strict && !known.has(k));
    this.#refuse([
      ...[...paths].flatMap(([parameter, names]) => problemsOf(parameter, names, state, strict)),
      ...unexpected.map((k) => `unexpected: ${k} ${shapeText(state[k]!.shape)}`),
    ]);
    const given = [...paths].map(([parameter, names]) => [parameter, names.filter((k) => k in state)] as const);
    const copy = (): void =>
      noGrad(() =>
        scope(() => {
          for (const [parameter, [first]] of given) if (first !== undefined) castInto(parameter, state[first]!);
        }),
      );
    const twins = given.flatMap(([, [first, ...others]]) =>
      others.filter((k) => !isSameView(state[k]!, state[first!]!)).map((k) => [first!, k] as const),
    );
    if (twins.length) return this.#compare(state, twins).then(copy);
    copy();
    return Promise.resolve();
  }

  /** Sets training mode here and below. */
  train(on = true): this {
    if (this.#entered) return this; // by a field that leads back here
    this.#entered = true;
    try {
      this.training = on;
      for (const [, child] of this.children()) child.train(on);
    } finally {
      this.#entered = false;
    }
    return this;
  }

  /** Ends training mode here and below. */
  eval(): this {
    return this.train(false);
  }

  /** Freezes (false) or unfreezes the parameters here and below; drops the gradients of frozen ones. */
  setRequiresGrad(on: boolean): this {
    for (const [, parameter] of this.#allNames("")) {
      if (parameter instanceof Buffer) continue;
      parameter.requiresGrad = on;
      if (!on) zeroGradients([parameter]);
    }
    return this;
  }

  /** Number of elements of all parameters. */
  parameterCount(): number {
    return this.parameters().reduce((sum, p) => sum + p.size, 0);
  }

  /** Frees the parameters and buffers. */
  dispose(): void {
    for (const [, owned] of this.#allNames("")) owned.dispose();
  }

  /**
   * Puts `module` in the place of the module at `path` (`layers.0.mlp`) and returns that one, not disposed: the new module may contain it. Labels
   * follow. A module with several paths is replaced at this one alone. Throws `ArgumentError` if there is no module at `path`.
   */
  replace(path: string, module: AnyModule): AnyModule {
    if (!(module instanceof Module))
      throw new ArgumentError(`replace: the module must be a Module object; got ${shown(module)}. Pass it second.`);
    const keys = typeof path === "string" ? path.split(".") : [];
    const last = keys.pop() ?? "";
    const holders = keys.reduce<unknown[]>((found, key) => [...found, itemAt(found.at(-1), key)], [this]);
    const holder = holders.at(-1);
    const old = itemAt(holder, last);
    if (!(old instanceof Module))
      throw new ArgumentError(
        `replace: the path must be one of a module of ${this.constructor.name}; got ${JSON.stringify(path)}. Use a path like ${[...this.children()][0]?.[0] ?? "layers.0"}.`,
      );
    if (holder instanceof Map) holder.set(last, module);
    else Object.assign(holder as object, { [last]: module });
    (holders.findLast((item) => item instanceof Module) as AnyModule).#labelAgain();
    return old;
  }

  /** True for a container that is not called itself: the labels of its modules include its own. */
  protected get isPassive(): boolean {
    return false;
  }

  /** Puts `module` into the field `name`, with its label if this module has given labels before. */
  protected setChild(name: string, module: AnyModule): void {
    Object.assign(this, { [name]: module });
    this.#labelAgain();
  }

  #labelAgain(): void {
    if (this.#named) this.#nameChildren(this.isPassive && this.#label ? `${this.#label}.` : "");
  }

  #nameChildren(prefix: string): void {
    this.#named = true;
    for (const [name, child] of this.children()) {
      child.#label = prefix + name;
      if (child.isPassive) child.#nameChildren(`${child.#label}.`);
    }
  }

  /** Every path of every parameter and buffer below this module, the one there, and the first one of the same view: most often itself. */
  *#allNames(prefix: string): Generator<[string, Owned, Owned]> {
    const views = new Views();
    for (const [name, parameter] of pathsBelow(this as AnyModule, prefix))
      yield [name, parameter, views.first(name, parameter)];
  }

  #refuse(problems: readonly string[]): void {
    if (problems.length)
      throw new StateDictError(
        `loadStateDict: ${problems.length} keys do not fit ${this.constructor.name}:\n  ${problems.join("\n  ")}`,
      );
  }

  async #compare(state: StateDict, twins: readonly (readonly [string, string])[]): Promise<void> {
    const problems: string[] = [];
    for (const [a, b] of twins)
      if (!(await haveSameBits(state[a]!, state[b]!)))
        problems.push(`tied: ${a} and ${b} are one parameter here and have different values; give one of them`);
    this.#refuse(problems);
  }

  #callOutermost(args: Args, run: () => Result): Result {
    const call: OutermostCall = {
      module: this as AnyModule,
      args,
      noGrads: noGradDepth(),
      below: null,
      given: null,
    };
    outermost = call;
    try {
      return watchLeaves((leaf) => {
        if (leaf instanceof Parameter) requireParameter(call, leaf);
      }, run);
    } finally {
      outermost = null;
    }
  }
}

/**
 * What a private field or a closure holds cannot be found by search, and not all that is made beside a module belongs to it (a parameter that
 * tying replaced). That `forward` called a module is certain: then `train`, `eval`, the optimizer and a checkpoint must reach it. Fields may
 * have changed since the last call: the last search is made once more if they have, once a call and for what is not found.
 */
function requireModule(call: OutermostCall, used: AnyModule): void {
  if (call.below?.modules.has(used) || call.given?.has(used) || noGradDepth() > call.noGrads) return;
  call.below = Search.below(call.module);
  call.given = modulesIn(itemsIn([["args", call.args]], null));
  if (call.below.modules.has(used) || call.given.has(used)) return;
  const [first] = used.namedParameters();
  const what = `${used.constructor.name}${first ? ` with ${first[0]} ${shapeText(first[1].shape)}` : ""}`;
  refuseHidden(
    call,
    what,
    " train() and eval() do not reach it, and its parameters would be neither trained nor saved",
  );
}

/** The same for a parameter that `forward` recorded for backward. */
function requireParameter(call: OutermostCall, used: Parameter): void {
  if (!call.below?.parameters.has(used)) call.below = Search.below(call.module);
  const first = call.below.parameters.get(used) ?? parametersIn(call.args).find((p) => p === used);
  if (first === used) return;
  if (!first) refuseHidden(call, `a parameter ${used}`, "it would be neither trained nor saved");
  throw new ArgumentError(
    `${call.module.constructor.name}: a parameter must be one object wherever it is used; got two parameters of one storage, ${used}${usedIn()}, of which only the first is trained. Put the same Parameter in both fields.`,
  );
}

function refuseHidden(call: OutermostCall, what: string, consequence: string): never {
  throw new ArgumentError(
    `${call.module.constructor.name}: every module and parameter that forward uses must be found below the module; got ${what}${usedIn()} that is in none of its fields: ${consequence}. Keep modules and parameters in public fields, arrays, plain objects or Maps with string keys (not in a #private field, a Set or an object of a class), or pass them to call().`,
  );
}

const usedIn = (): string => (currentLabel() ? ` (used in ${currentLabel()})` : "");

/** The modules among `items` and below them. */
function modulesIn(items: Iterable<[string, AnyModule | Owned]>, found = new Set<AnyModule>()): Set<AnyModule> {
  for (const [, item] of items) {
    if (isOwned(item) || found.has(item)) continue;
    found.add(item);
    modulesIn(ownedBy(item), found);
  }
  return found;
}

/** The parameters among the arguments of a call and below its modules. */
const parametersIn = (args: readonly unknown[]): Parameter[] =>
  [...itemsIn([["args", args]], null)].flatMap(([, item]) =>
    item instanceof Parameter ? [item] : item instanceof Module ? item.parameters() : [],
  );

/**
 * What is below a module. The last search of each module is kept with the entries that it read: while they are the same, so is its result.
 * Below the tiny Janus (null device, two cores) a search for modules and parameters takes 1.4 ms, the comparison 0.05 ms.
 */
class Search {
  readonly modules: ReadonlySet<AnyModule>;
  private readonly module: AnyModule;
  /** Each module, array, plain object, Map and Set that the search read, with its alternating keys and values. */
  private readonly entries = new Map<object, readonly unknown[]>();
  private views: ReadonlyMap<Owned, Owned> | null = null;
  private static readonly last = new WeakMap<AnyModule, Search>();

  /** The last search below `module`, or a new one if an entry has changed. Throws `ArgumentError` for keys that no path can have. */
  static below(module: AnyModule): Search {
    const last = Search.last.get(module);
    if (last?.isCurrent()) return last;
    const made = new Search(module);
    Search.last.set(module, made);
    return made;
  }

  private constructor(module: AnyModule) {
    this.module = module;
    this.modules = modulesIn([["", module]]);
    this.read(module);
  }

  /** The parameters and buffers below the module, each with the first one of its view. */
  get parameters(): ReadonlyMap<Owned, Owned> {
    if (this.views) return this.views;
    const views = new Views();
    const found = new Map<Owned, Owned>();
    for (const [name, parameter] of pathsBelow(this.module, "")) found.set(parameter, views.first(name, parameter));
    return (this.views = found);
  }

  private read(holder: object): void {
    const entries = flatEntries(holder);
    if (!entries || this.entries.has(holder)) return;
    this.entries.set(holder, entries);
    for (const value of entries) if (typeof value === "object" && value !== null) this.read(value);
  }

  private isCurrent(): boolean {
    for (const [holder, before] of this.entries) if (!hasEntries(holder, before)) return false;
    return true;
  }
}

/**
 * Whether what a search reads in `holder` is still `before`. Numbers and the like may change: nothing is below them. Plain loops: this runs
 * over all fields of a model once a call.
 */
function hasEntries(holder: object, before: readonly unknown[]): boolean {
  let i = 0;
  if (Array.isArray(holder)) {
    for (const value of holder) if (!isSameItem(value, before[2 * i++ + 1])) return false;
    return 2 * i === before.length;
  }
  if (holder instanceof Map || holder instanceof Set || Object.getOwnPropertySymbols(holder).length) {
    const now = flatEntries(holder)!;
    return now.length === before.length && now.every((value, n) => isSameItem(value, before[n]));
  }
  for (const key in holder) {
    if (before[i] !== key || !isSameItem((holder as Record<string, unknown>)[key], before[i + 1])) return false;
    i += 2;
  }
  return i === before.length;
}

const isSameItem = (value: unknown, before: unknown): boolean =>
  value === before || !(isObject(value) || isObject(before));

const isObject = (value: unknown): boolean => typeof value === "object" && value !== null;

/** Returns alternating keys and values of a value that a search reads; null for anything else. */
function flatEntries(holder: object): unknown[] | null {
  if (isOwned(holder)) return null;
  const entries = holder instanceof Module ? ownEntries(holder) : entriesOf(holder);
  return entries && [...entries].flat();
}

/** The modules and parameters in a module's own fields, by path. */
function ownedBy(module: AnyModule): Generator<[string, AnyModule | Owned]> {
  return itemsIn(ownEntries(module), module.constructor.name);
}

/** Every path of every parameter below a module; a module that contains itself is entered once. */
function* pathsBelow(module: AnyModule, prefix: string, open: readonly AnyModule[] = []): Generator<[string, Owned]> {
  const inside = [...open, module];
  for (const [name, value] of ownedBy(module)) {
    if (isOwned(value)) yield [prefix + name, value];
    else if (!inside.includes(value)) yield* pathsBelow(value, `${prefix}${name}.`, inside);
  }
}

/** Parameters by the part of the storage that they show. */
class Views {
  private readonly known = new Map<Tensor["storage"], (readonly [string, Owned])[]>();

  /** The first of the parameters with the view of `parameter`, itself if there was none. Throws `ArgumentError` if two views overlap. */
  first(name: string, parameter: Owned): Owned {
    const others = this.known.get(parameter.storage) ?? [];
    for (const [path, other] of others) {
      if (other === parameter || (isSameView(other, parameter) && sameShape(other.shape, parameter.shape)))
        return other;
      if (spansMeet(other, parameter))
        throw new ArgumentError(
          `parameters must be the same or apart; got "${path}" and "${name}", which overlap in one storage: ${other}, ${parameter}. Keep one of them, and make views of it in forward.`,
        );
    }
    this.known.set(parameter.storage, [...others, [name, parameter]]);
    return parameter;
  }
}

/** True if two views of one storage overlap. */
function spansMeet(a: Tensor, b: Tensor): boolean {
  const [[start, end], [from, to]] = [a, b].map((t) => {
    const last = t.shape.reduce((sum, n, i) => sum + (n - 1) * t.strides[i]!, t.offset);
    return [elementBytes(t.dtype, t.offset), t.size ? elementBytes(t.dtype, last + 1) : 0];
  }) as [[number, number], [number, number]];
  return start < to && from < end;
}

/** Returns keys and values of a value that is searched for modules (array, plain object, Map, Set); null for anything else. */
function entriesOf(value: object): Iterable<readonly [unknown, unknown]> | null {
  if (Array.isArray(value)) return value.map((item, i) => [String(i), item] as const);
  if (value instanceof Map) return value;
  if (value instanceof Set) return [...value].map((item) => [undefined, item] as const);
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null ? ownEntries(value) : null;
}

/** Returns the value of `key` in a module, an array, a plain object or a Map; undefined if there is none. */
function itemAt(holder: unknown, key: string): unknown {
  if (typeof holder !== "object" || holder === null) return undefined;
  if (holder instanceof Map) return holder.get(key);
  const isSearched = holder instanceof Module || entriesOf(holder) !== null;
  return isSearched && Object.hasOwn(holder, key) ? (holder as Record<string, unknown>)[key] : undefined;
}

/** Enumerable own properties, those under symbols too. */
const ownEntries = (value: object): (readonly [unknown, unknown])[] => [
  ...Object.entries(value),
  ...Object.getOwnPropertySymbols(value).map((key) => [key, (value as Record<symbol, unknown>)[key]] as const),
];

/**
 * The modules and parameters among `entries` and in their arrays, plain objects and Maps, by path. `where` names the holder in errors; null: any
 * key will do.
 */
function* itemsIn(
  entries: Iterable<readonly [unknown, unknown]>,
  where: string | null,
  open: readonly object[] = [],
): Generator<[string, AnyModule | Owned]> {
  for (const [key, value] of entries) {
    if (typeof value !== "object" || value === null || open.includes(value)) continue;
    if (value instanceof Module || isOwned(value)) {
      yield [requireKey(key, where, value), value];
      continue;
    }
    const inner = entriesOf(value);
    if (!inner) continue;
    const holder = where === null ? null : `${where}.${typeof key === "string" ? key : "…"}`;
    for (const [rest, item] of itemsIn(inner, holder, [...open, value]))
      yield [`${requireKey(key, where, item)}.${rest}`, item];
  }
}

/** `key` as a part of a path. Throws `ArgumentError` if it cannot be one. */
function requireKey(key: unknown, where: string | null, item: object): string {
  if (where === null) return "";
  if (typeof key === "string" && key && !key.includes(".")) return key;
  const at = { string: JSON.stringify(key), undefined: "none (a Set)", object: "an object" }[typeof key as string];
  throw new ArgumentError(
    `${where}: modules and parameters must be under a name without a dot; got ${item.constructor.name} under ${at ?? String(key)}. Keep them in fields, arrays, or plain objects and Maps with such keys.`,
  );
}

/** Throws `ArgumentError` if `n` is not a whole number of at least 1. */
export function requirePositive(op: string, values: Readonly<Record<string, number>>): void {
  for (const [name, n] of Object.entries(values)) {
    if (!Number.isInteger(n) || n < 1)
      throw new ArgumentError(`${op}: ${name} must be a whole number of at least 1; got ${n}. Change it.`);
  }
}
