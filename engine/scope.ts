/**
 * Scopes: every tensor made inside a scope is disposed when the scope ends, except those that it returns. The tape
 * keeps its own handles of saved tensors.
 */
import { requireFunction } from "./options.ts";
import { refusePromise } from "./promise.ts";
import type { Tensor } from "./tensor.ts";

const stack: Set<Tensor>[] = [];

/** Called by each new tensor. Returns false when no scope is open. */
export function adoptIntoScope(tensor: Tensor): boolean {
  const top = stack.at(-1);
  if (!top) return false;
  top.add(tensor);
  return true;
}

/** True if `tensor` was made in the innermost open scope. */
export const madeHere = (tensor: Tensor): boolean => stack.at(-1)?.has(tensor) ?? false;

/** Called when a tensor is disposed or kept beyond all scopes. */
export function leaveScopes(tensor: Tensor): void {
  for (const tensors of stack) tensors.delete(tensor);
}

/**
 * Runs `fn` and disposes every tensor made in it, except those in its result (a tensor, or arrays and plain objects of
 * tensors), which then belong to the surrounding scope. `fn` must be synchronous; throws `ArgumentError` if it returns
 * a promise.
 */
export function scope<T>(fn: () => T): T {
  requireFunction("scope", fn);
  const at = stack.push(new Set()) - 1;
  let result: T;
  try {
    result = fn();
    refusePromise(result, "scope()");
  } catch (error) {
    for (const tensor of close(at)) tensor.dispose();
    throw error;
  }
  const tensors = close(at);
  const kept = tensors.size ? tensorsIn(result) : new Set<Tensor>();
  for (const tensor of tensors) {
    if (!kept.has(tensor)) tensor.dispose();
    else if (!adoptIntoScope(tensor)) tensor.watch();
  }
  return result;
}

/** Pops a scope, and with it the scopes that were opened in it and not closed: it takes over their tensors. */
function close(at: number): Set<Tensor> {
  const [own, ...forgotten] = stack.splice(at) as [Set<Tensor>, ...Set<Tensor>[]];
  for (const tensors of forgotten) {
    for (const tensor of tensors) own.add(tensor);
    tensors.clear();
  }
  return own;
}

let building: Set<Tensor> | null = null;

/** Called when a tensor is kept beyond all scopes. */
export const noteKept = (tensor: Tensor): void => void building?.add(tensor);

/**
 * Runs `make`, which builds an owner of tensors (a model, a cache). If it throws, the tensors kept so far are
 * disposed, rather than left to the garbage collector. `make` must be synchronous.
 */
export function construct<T>(make: () => T): T {
  const around = building;
  const kept = (building = new Set());
  try {
    const made = make();
    refusePromise(made, "construct()");
    if (around) for (const tensor of kept) around.add(tensor);
    return made;
  } catch (error) {
    for (const tensor of kept) tensor.dispose();
    throw error;
  } finally {
    building = around;
  }
}

/**
 * A scope for `using`: `using s = openScope()` disposes, at the end of the block, the tensors made in it that were not
 * passed to `s.keep`.
 */
export function openScope(): Disposable & { keep<T extends Tensor>(tensor: T): T } {
  const tensors = new Set<Tensor>();
  stack.push(tensors);
  return {
    keep<T extends Tensor>(tensor: T): T {
      if (tensors.delete(tensor)) {
        const below = stack[stack.indexOf(tensors) - 1];
        if (below) below.add(tensor);
        else tensor.watch();
      }
      return tensor;
    },
    [Symbol.dispose](): void {
      const at = stack.indexOf(tensors);
      if (at >= 0) stack.splice(at, 1);
      for (const tensor of tensors) tensor.dispose();
    },
  };
}

/**
 * Returns the tensors in a value: the value itself, or those in its arrays, sets, maps and plain objects. Class
 * instances are not searched.
 */
export function tensorsIn(value: unknown, found: Set<Tensor> = new Set(), seen: Set<unknown> = new Set()): Set<Tensor> {
  if (typeof value !== "object" || value === null || seen.has(value)) return found;
  seen.add(value);
  if (isTensor(value)) found.add(value);
  else if (Array.isArray(value) || value instanceof Set) for (const v of value) tensorsIn(v, found, seen);
  else if (value instanceof Map) for (const v of value.values()) tensorsIn(v, found, seen);
  else if (Object.getPrototypeOf(value) === Object.prototype)
    for (const v of Object.values(value)) tensorsIn(v, found, seen);
  return found;
}

const isTensor = (value: object): value is Tensor => "storage" in value && "strides" in value;
