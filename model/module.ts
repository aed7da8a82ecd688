/**
 * Modules: objects whose fields are parameters and other modules. The path of a field (`layers.0.mlp.up_proj.weight`) is its key in the
 * state dict, so fields carry the names of the checkpoint. A parameter may have several paths (tied weights): it is one all the same.
 */
import {
  ArgumentError,
  JanusError,
  Tensor,
  currentLabel,
  elementBytes,
  gradEnabled,
  noGrad,
  scope,
  sameShape,
  shapeText,
  watchLeaves,
  withLabel,
  zeroGradients,
} from "../engine/index.ts";
import { cast, contiguous, copyFrom } from "../kernels/index.ts";

/** A tensor that a module owns and that training changes. It lives until the module is disposed. */
export class Parameter extends Tensor {
  /** Takes over the values of `data`, which may be disposed. */
  constructor(data: Tensor, requiresGrad = true) {
    super(data.storage.retain(), data.shape, data.dtype, data.strides, data.offset);
    this.keep();
    this.requiresGrad = requiresGrad;
  }
}

/** Keys or shapes of a state dict that do not fit the module; nothing was loaded. */
export class StateDictError extends JanusError {}

export type StateDict = Record<string, Tensor>;

type AnyModule = Module<never, unknown>;

/** The module whose `call` is the outermost one now. */
let outermost: AnyModule | null = null;

export abstract class Module<Args extends readonly unknown[] = readonly [Tensor], Result = Tensor> {
  /** False after `eval()`: dropout and the like are off. */
  training = true;
  private label = "";
  private named = false;
  private entered = false;
  /** Parameters that `forward` may use: below this module, or passed to `call`. */
  private readonly found = new WeakSet<Parameter>();

  abstract forward(...args: Args): Result;

  /**
   * Runs `forward` in a scope of its own: what it made is freed, except its result and what the tape saved. Launches carry the module's path.
   * Throws `ArgumentError` if `forward` recorded a parameter that is neither below this module nor in `args`: it would be neither trained nor saved.
   */
  call(...args: Args): Result {
    if (!this.named) {
      for (const [name, child] of this.children()) child.label = name;
      this.named = true;
    }
    const run = (): Result => scope(() => this.forward(...args));
    const labelled = (): Result => (this.label ? withLabel(this.label, run) : run());
    return outermost || !gradEnabled() ? labelled() : this.callOutermost(args, labelled);
  }

  /** The modules in this module's fields, by path: `mlp`, `layers.0`. A module with two paths has the first. */
  *children(): Generator<[string, AnyModule]> {
    const seen = new Set<AnyModule>();
    for (const [name, value] of this.owned()) {
      if (!(value instanceof Module) || seen.has(value)) continue;
      seen.add(value);
      yield [name, value];
    }
  }

  /**
   * All parameters below this module with their paths, in the order of the fields. A parameter with several paths (tied weights) comes once,
   * under the first. Searched are fields, arrays, plain objects and Maps with string keys, nested too; throws `ArgumentError` for a module or
   * parameter in a Set, or under a key that is no string or has a dot.
   */
  *namedParameters(prefix = ""): Generator<[string, Parameter]> {
    const seen = new Set<Parameter>();
    for (const [name, parameter] of this.allNames(prefix)) {
      if (seen.has(parameter)) continue;
      seen.add(parameter);
      yield [name, parameter];
    }
  }

  /** All parameters below this module, each once. */
  parameters(): Parameter[] {
    return [...this.namedParameters()].map(([, p]) => p);
  }

  /** The parameters by path, tied ones under each of their paths, as in PyTorch. They are the module's own, not copies. */
  stateDict(): Record<string, Parameter> {
    return Object.fromEntries(this.allNames(""));
  }

  /**
   * Copies the tensors of `state` into the parameters of the same path (cast to their dtype). With `strict` every key must be on both
   * sides; of the paths of a tied parameter one is enough. Throws `StateDictError` that lists every missing, unexpected and misshapen key
   * before anything is copied. The copies are launched when this returns, unless a tied parameter is given by several different tensors:
   * these are compared first, and the promise rejects with `StateDictError` if their values differ.
   */
  loadStateDict(state: StateDict, options: { strict?: boolean } = {}): Promise<void> {
    const paths = new Map<Parameter, string[]>();
    for (const [name, parameter] of this.allNames("")) paths.set(parameter, [...(paths.get(parameter) ?? []), name]);
    const { strict = true } = options;
    const known = new Set([...paths.values()].flat());
    const unexpected = Object.keys(state).filter((k) => strict && !known.has(k));
    this.refuse([
      ...[...paths].flatMap(([parameter, names]) => problemsOf(parameter, names, state, strict)),
      ...unexpected.map((k) => `unexpected: ${k} ${shapeText(state[k]!.shape)}`),
    ]);
    const given = [...paths].map(([parameter, names]) => [parameter, names.filter((k) => k in state)] as const);
    const copy = (): void =>
      noGrad(() =>
        scope(() => {
          for (const [parameter, [first]] of given) if (first !== undefined) copyFrom(parameter, state[first]!);
        }),
      );
    const twins = given.flatMap(([, [first, ...others]]) =>
      others.filter((k) => !isSameView(state[k]!, state[first!]!)).map((k) => [first!, k] as const),
    );
    if (twins.length) return this.compare(state, twins).then(copy);
    copy();
    return Promise.resolve();
  }

  /** Sets training mode here and below. */
  train(on = true): this {
    if (this.entered) return this; // by a field that leads back here
    this.entered = true;
    try {
      this.training = on;
      for (const [, child] of this.children()) child.train(on);
    } finally {
      this.entered = false;
    }
    return this;
  }

  /** Ends training mode here and below. */
  eval(): this {
    return this.train(false);
  }

  /** Freezes (false) or unfreezes the parameters here and below; drops the gradients of frozen ones. */
  setRequiresGrad(on: boolean): this {
    for (const parameter of this.parameters()) {
      parameter.requiresGrad = on;
      if (!on) zeroGradients([parameter]);
    }
    return this;
  }

  /** Number of elements of all parameters. */
  parameterCount(): number {
    return this.parameters().reduce((sum, p) => sum + p.size, 0);
  }

  /** Frees the parameters. */
  dispose(): void {
    for (const parameter of this.parameters()) parameter.dispose();
  }

  /** The modules and parameters in this module's own fields, by path. */
  private owned(): Generator<[string, AnyModule | Parameter]> {
    return itemsIn(ownEntries(this), this.constructor.name);
  }

  /** Every path of every parameter below this module; a module that contains itself is entered once. */
  private *allNames(prefix: string, open: readonly AnyModule[] = []): Generator<[string, Parameter]> {
    const inside = [...open, this as AnyModule];
    for (const [name, value] of this.owned()) {
      if (value instanceof Parameter) yield [prefix + name, value];
      else if (!inside.includes(value)) yield* value.allNames(`${prefix}${name}.`, inside);
    }
  }

  private refuse(problems: readonly string[]): void {
    if (problems.length)
      throw new StateDictError(
        `loadStateDict: ${problems.length} keys do not fit ${this.constructor.name}:\n  ${problems.join("\n  ")}`,
      );
  }

  private async compare(state: StateDict, twins: readonly (readonly [string, string])[]): Promise<void> {
    const problems: string[] = [];
    for (const [a, b] of twins)
      if (!(await haveSameBits(state[a]!, state[b]!)))
        problems.push(`tied: ${a} and ${b} are one parameter here and have different values; give one of them`);
    this.refuse(problems);
  }

  private callOutermost(args: Args, run: () => Result): Result {
    outermost = this as AnyModule;
    try {
      return watchLeaves((leaf) => {
        if (leaf instanceof Parameter && !this.found.has(leaf)) this.requireFound(leaf, args);
      }, run);
    } finally {
      outermost = null;
    }
  }

  /**
   * What a private field or a closure holds cannot be found by search, and not all that is made beside a module belongs to it (a parameter that
   * tying replaced). That `forward` recorded a parameter for backward is certain: then it must be one that the optimizer and a checkpoint get.
   */
  private requireFound(used: Parameter, args: Args): void {
    for (const parameter of this.parameters()) this.found.add(parameter);
    for (const [, value] of itemsIn([["args", args]], null))
      for (const parameter of value instanceof Parameter ? [value] : value.parameters()) this.found.add(parameter);
    const label = currentLabel();
    if (!this.found.has(used))
      throw new ArgumentError(
        `${this.constructor.name}: every parameter that forward uses must be found below the module; got a parameter ${used}${label ? ` (used in ${label})` : ""} that is in none of its fields and would be neither trained nor saved. Keep its module in a public field, an array, a plain object or a Map with string keys (not in a #private field, a Set or an object of a class), or pass it to call().`,
      );
  }
}

/** Keys and values of what is searched for modules: arrays, plain objects, Maps, Sets; null for anything else. */
function entriesOf(value: object): Iterable<readonly [unknown, unknown]> | null {
  if (Array.isArray(value)) return value.map((item, i) => [String(i), item] as const);
  if (value instanceof Map) return value;
  if (value instanceof Set) return [...value].map((item) => [undefined, item] as const);
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null ? ownEntries(value) : null;
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
): Generator<[string, AnyModule | Parameter]> {
  for (const [key, value] of entries) {
    if (typeof value !== "object" || value === null || open.includes(value)) continue;
    if (value instanceof Module || value instanceof Parameter) {
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

/** What of `state` does not fit a parameter with these paths. */
function problemsOf(parameter: Parameter, paths: readonly string[], state: StateDict, strict: boolean): string[] {
  const given = paths.filter((k) => k in state);
  if (!given.length) return strict ? [`missing: ${paths.join(" or ")} ${shapeText(parameter.shape)}`] : [];
  return given
    .filter((k) => !sameShape(parameter.shape, state[k]!.shape))
    .map((k) => `misshapen: ${k} is ${shapeText(state[k]!.shape)}, the module has ${shapeText(parameter.shape)}`);
}

const isSameView = (a: Tensor, b: Tensor): boolean =>
  a.storage === b.storage && a.offset === b.offset && a.dtype === b.dtype && a.strides.join() === b.strides.join();

const COMPARED_BYTES = 16 * 2 ** 20;

/** Whether two tensors of one shape have the same bits, both as f32 if their dtypes differ. Reads them back, a part at a time. */
async function haveSameBits(a: Tensor, b: Tensor): Promise<boolean> {
  const [left, right] = noGrad(() =>
    scope(() => [a, b].map((t) => contiguous(a.dtype === b.dtype ? t.detach() : cast(t.detach(), "f32")))),
  ) as [Tensor, Tensor];
  try {
    const bytes = elementBytes(left.dtype, left.size);
    for (let at = 0; at < bytes; at += COMPARED_BYTES) {
      const length = Math.min(COMPARED_BYTES, bytes - at);
      const [x, y] = [await left.readBytes(at, length), await right.readBytes(at, length)];
      if (x.some((byte, i) => byte !== y[i])) return false;
    }
    return true;
  } finally {
    for (const t of [left, right]) t.dispose();
  }
}

/** Throws unless `n` is a whole number of at least 1. */
export function requirePositive(op: string, values: Readonly<Record<string, number>>): void {
  for (const [name, n] of Object.entries(values)) {
    if (!Number.isInteger(n) || n < 1) throw new ArgumentError(`${op}: ${name} is ${n}; a whole number of at least 1`);
  }
}
