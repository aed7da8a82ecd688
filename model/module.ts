/**
 * Modules: objects whose fields are parameters and other modules. The path of a field (`layers.0.mlp.up_proj.weight`) is its key in the
 * state dict, so fields carry the names of the checkpoint.
 */
import {
  ArgumentError,
  JanusError,
  Tensor,
  noGrad,
  scope,
  sameShape,
  shapeText,
  withLabel,
  zeroGradients,
} from "../engine/index.ts";
import { copyFrom } from "../kernels/index.ts";

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

export abstract class Module<Args extends readonly unknown[] = readonly [Tensor], Result = Tensor> {
  /** False after `eval()`: dropout and the like are off. */
  training = true;
  private label = "";
  private named = false;

  abstract forward(...args: Args): Result;

  /** Runs `forward` in a scope of its own: what it made is freed, except its result and what the tape saved. Launches carry the module's path. */
  call(...args: Args): Result {
    if (!this.named) {
      for (const [name, child] of this.children()) child.label = name;
      this.named = true;
    }
    const run = (): Result => scope(() => this.forward(...args));
    return this.label ? withLabel(this.label, run) : run();
  }

  /** The modules in this module's fields, by field path: `mlp`, `layers.0`. */
  *children(): Generator<[string, Module<never, unknown>]> {
    for (const [name, value] of Object.entries(this)) {
      if (value instanceof Module) yield [name, value];
      else if (Array.isArray(value)) {
        for (const [i, item] of value.entries()) if (item instanceof Module) yield [`${name}.${i}`, item];
      }
    }
  }

  /** All parameters below this module with their paths, in the order of the fields. */
  *namedParameters(prefix = ""): Generator<[string, Parameter]> {
    for (const [name, value] of Object.entries(this)) {
      if (value instanceof Parameter) yield [prefix + name, value];
      else if (value instanceof Module) yield* value.namedParameters(`${prefix}${name}.`);
      else if (Array.isArray(value)) {
        for (const [i, item] of value.entries())
          if (item instanceof Module) yield* item.namedParameters(`${prefix}${name}.${i}.`);
      }
    }
  }

  /** All parameters below this module. */
  parameters(): Parameter[] {
    return [...this.namedParameters()].map(([, p]) => p);
  }

  /** The parameters by path. They are the module's own, not copies. */
  stateDict(): Record<string, Parameter> {
    return Object.fromEntries(this.namedParameters());
  }

  /**
   * Copies the tensors of `state` into the parameters of the same path (cast to their dtype). With `strict` every key must be on both
   * sides. Throws `StateDictError` that lists every missing, unexpected and misshapen key before anything is copied.
   */
  loadStateDict(state: StateDict, options: { strict?: boolean } = {}): void {
    const own = this.stateDict();
    const missing = Object.keys(own).filter((k) => !(k in state));
    const unexpected = Object.keys(state).filter((k) => !(k in own));
    const misshapen = Object.keys(own).filter((k) => k in state && !sameShape(own[k]!.shape, state[k]!.shape));
    const strict = options.strict ?? true;
    const problems = [
      ...(strict ? missing.map((k) => `missing: ${k} ${shapeText(own[k]!.shape)}`) : []),
      ...(strict ? unexpected.map((k) => `unexpected: ${k} ${shapeText(state[k]!.shape)}`) : []),
      ...misshapen.map(
        (k) => `misshapen: ${k} is ${shapeText(state[k]!.shape)}, the module has ${shapeText(own[k]!.shape)}`,
      ),
    ];
    if (problems.length)
      throw new StateDictError(
        `loadStateDict: ${problems.length} keys do not fit ${this.constructor.name}:\n  ${problems.join("\n  ")}`,
      );
    noGrad(() =>
      scope(() => {
        for (const [key, parameter] of Object.entries(own)) if (key in state) copyFrom(parameter, state[key]!);
      }),
    );
  }

  /** Sets training mode here and below. */
  train(on = true): this {
    this.training = on;
    for (const [, child] of this.children()) child.train(on);
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
}

/** Throws unless `n` is a whole number of at least 1. */
export function requirePositive(op: string, values: Readonly<Record<string, number>>): void {
  for (const [name, n] of Object.entries(values)) {
    if (!Number.isInteger(n) || n < 1) throw new ArgumentError(`${op}: ${name} is ${n}; a whole number of at least 1`);
  }
}
