/**
 * Reverse-mode differentiation: a tape of {inputs, saved, backward}. Ops call `record` after they have computed their result;
 * `backward()` walks the entries from the last to the first. Gradients of leaves accumulate in f32, those between ops are passed on.
 * No double backward.
 */
import { ArgumentError, AutogradError, DTypeError, ShapeError, shapeText } from "./errors.ts";
import { currentLabel, withLabel } from "./label.ts";
import { requireFunction, shown } from "./options.ts";
import { refusePromise } from "./promise.ts";
import { madeHere, scope } from "./scope.ts";
import { encode, isFloat } from "./dtype.ts";
import { deviceConstant } from "./constants.ts";
import { sameShape } from "./shape.ts";
import { offAnyLaunch, onAnyLaunch } from "./queue.ts";
import { nextStorageSerial } from "./storage.ts";
import { TapeNode, nextTapeId } from "./tape.ts";
import type { Backward } from "./tape.ts";
import type { Tensor } from "./tensor.ts";
import type { Device } from "./device.ts";
import type { Launch, Storage } from "./types.ts";
import { allDraws, withDraws } from "./random.ts";

let enabled = true;
let accumulator: ((into: Tensor | null, grad: Tensor, inPlace: boolean, leaf: boolean) => Tensor) | null = null;

/** True unless inside `noGrad`. */
export const gradEnabled = (): boolean => enabled;

/** How gradients are added and made f32 for leaves; `kernels/` sets it once. */
export function setGradientAccumulator(fn: NonNullable<typeof accumulator>): void {
  accumulator = fn;
}

let noGrads = 0;

/** How many `noGrad` are open, those of `checkpoint` apart. */
export const noGradDepth = (): number => noGrads;

/** Runs `fn` (synchronous) without recording. */
export function noGrad<T>(fn: () => T): T {
  requireFunction("noGrad", fn);
  noGrads++;
  try {
    return withGrad(false, fn, "noGrad()");
  } finally {
    noGrads--;
  }
}

/** Runs `fn` (synchronous) with recording on, also inside `noGrad`. */
export function enableGrad<T>(fn: () => T): T {
  return withGrad(true, fn, "enableGrad()");
}

function withGrad<T>(value: boolean, fn: () => T, what: string): T {
  const before = enabled;
  enabled = value;
  try {
    const result = fn();
    refusePromise(result, what);
    return result;
  } finally {
    enabled = before;
  }
}

let watcher: ((leaf: Tensor) => void) | null = null;

/** Runs `fn` (synchronous); `seen` gets each leaf that requires a gradient when an op on it is recorded, in a later recomputation by `checkpoint` too. */
export function watchLeaves<T>(seen: (leaf: Tensor) => void, fn: () => T): T {
  const before = watcher;
  watcher = before
    ? (leaf) => {
        before(leaf);
        seen(leaf);
      }
    : seen;
  try {
    return fn();
  } finally {
    watcher = before;
  }
}

/**
 * Puts an op on the tape and returns its result.
 * @param inputs the op's tensor inputs, in the order in which `backward` returns their gradients
 * @param output a new tensor that no one else holds
 * @param saved tensors that `backward` reads; the tape keeps handles of its own, so scopes may dispose the originals.
 *   They are kept as views outside the tape: gradients do not flow through them
 * @param force record even if no input requires a gradient (parameters reached inside, as in `checkpoint`)
 */
export function record(
  name: string,
  inputs: readonly (Tensor | null | undefined)[],
  output: Tensor,
  saved: readonly Tensor[],
  backward: Backward,
  force = false,
): Tensor {
  if (!enabled || !(force || inputs.some((t) => t?.requiresGrad))) return output;
  const edges = inputs.map((t) => (t?.requiresGrad ? (t.node ?? t) : null));
  if (watcher) for (const edge of edges) if (edge && !(edge instanceof TapeNode)) watcher(edge);
  const handles = saved.map((t) => t.strided(t.shape, t.strides).escape());
  output.node = new TapeNode({
    name,
    label: currentLabel(),
    edges,
    shape: output.shape,
    saved: handles,
    backward,
  });
  return output;
}

/** Calls `fn` with the gradient of `t` when backward reaches it; what it returns replaces the gradient. `t` is a result of an op. */
export function onGrad(t: Tensor, fn: (grad: Tensor) => Tensor | void): void {
  if (!t.node)
    throw new AutogradError(
      `onGrad: ${t} is a leaf or needs no gradient; hooks are for results of ops, a leaf's gradient is in .grad`,
    );
  t.node.hooks.push(fn);
}

/** The 1 that `backward()` starts from. */
const one = (device: Device): Tensor =>
  deviceConstant(device, "one", () => ({ shape: [], dtype: "f32", bytes: encode([1], "f32") }));

/**
 * Differentiates `loss` with respect to every leaf that requires a gradient, adding to their `.grad` (f32). Frees the tape as it goes.
 * @param grad gradient of `loss`, of its shape; may be left out for a loss of one element
 */
export function backward(loss: Tensor, grad?: Tensor): void {
  if (typeof (loss as Partial<Tensor> | undefined)?.check !== "function")
    throw new ArgumentError(`backward: the loss must be a Tensor; got ${shown(loss)}. Pass the result of a loss.`);
  loss.check();
  if (!loss.requiresGrad)
    throw new AutogradError(
      `backward: ${loss} does not depend on any tensor that requires a gradient (or was made inside noGrad)`,
    );
  if (grad && !isFloat(grad.dtype))
    throw new DTypeError(`backward: the gradient ${grad} is not of a floating dtype; cast it to f32`);
  if (grad ? !sameShape(grad.shape, loss.shape) : loss.size !== 1) {
    throw new ShapeError(
      `backward: ${loss} ${grad ? `and its gradient ${grad}` : "is not one element and no gradient was given"}; pass a gradient of shape ${shapeText(loss.shape)}`,
    );
  }
  if (!accumulator) throw new AutogradError("backward: no gradient accumulator; import janus-webgpu/kernels");
  noGrad(() => {
    const seed = grad ?? one(loss.device);
    const start = seed.strided(loss.shape, grad ? grad.strides : loss.shape.map(() => 1));
    if (!loss.node) addToLeaf(loss, start);
    else withLabel("backward", () => walk(loss.node!, start));
  });
}

// Entries older than this belong to the graph around a checkpoint, whose own backward is under way.
let firstId = 0;

function withFirst(id: number, fn: () => void): void {
  const before = firstId;
  firstId = id;
  try {
    fn();
  } finally {
    firstId = before;
  }
}

function walk(root: TapeNode, seed: Tensor): void {
  const order = reachable(root);
  for (const node of order) {
    if (node.id < firstId) {
      throw new AutogradError(
        `checkpoint: the function uses a result of "${node.name}" that was made outside it; pass that tensor as an input of checkpoint(), so that its gradient has a way back`,
      );
    }
    if (!node.backward)
      throw new AutogradError(
        `backward: the graph through "${node.name}" was used already and is freed; run the forward again (there is no double backward, no retained graph)`,
      );
  }
  const grads = new Map<TapeNode, Tensor>([[root, seed]]);
  try {
    for (const node of order) {
      let grad = grads.get(node);
      if (!grad) continue;
      grads.delete(node);
      try {
        for (const hook of node.hooks) grad = replace(node, grad, hook);
        withLabel(node.label ? `${node.label}/${node.name}` : node.name, () => step(node, grad!, grads), ":");
      } finally {
        grad.dispose();
      }
      node.free();
    }
  } finally {
    for (const grad of grads.values()) grad.dispose();
  }
}

/** What a hook makes of `grad`, as a view of our own: the tensor that it returns may be the user's. */
function replace(node: TapeNode, grad: Tensor, hook: (grad: Tensor) => Tensor | void): Tensor {
  const by = scope(() => {
    const given = hook(grad);
    refusePromise(given, "onGrad()");
    if (!given || given === grad) return null;
    if (!sameShape(given.shape, node.shape))
      throw new ShapeError(
        `onGrad: a hook on a result of "${node.name}" gave ${given} for a gradient of shape ${shapeText(node.shape)}`,
      );
    return given.strided(given.shape, given.strides);
  });
  if (!by) return grad;
  grad.dispose();
  return by.escape();
}

function step(node: TapeNode, grad: Tensor, grads: Map<TapeNode, Tensor>): void {
  for (const { tensor: saved, version } of node.saved) {
    if (saved.storage.version !== version) {
      throw new AutogradError(
        `backward: a tensor ${saved} saved by "${node.name}" was changed in place after the forward; change a copy, or after backward`,
      );
    }
  }
  const needs = node.edges.map((edge) => edge !== null);
  // The result of each backward outlives its scope; what it made on the way does not.
  const results = scope(() => {
    const given = node.backward!(
      grad,
      node.saved.map((s) => s.tensor),
      needs,
    );
    return given.map((g, i) => {
      if (!g || !needs[i]) return null;
      // Only what this backward made may be taken over; anything else (the gradient itself, a saved or a foreign tensor) gets a view.
      return madeHere(g) && given.indexOf(g) === i ? g : g.strided(g.shape, g.strides);
    });
  });
  for (const [i, edge] of node.edges.entries()) {
    const result = results[i];
    if (!edge || !result) continue;
    result.escape();
    if (!sameShape(result.shape, edge.shape)) {
      for (const t of results) t?.dispose();
      throw new ShapeError(
        `backward of "${node.name}": gradient ${i} has shape ${shapeText(result.shape)}, its input ${shapeText(edge.shape)}`,
      );
    }
    try {
      if (edge instanceof TapeNode) {
        const before = grads.get(edge);
        grads.set(edge, before ? accumulator!(before, result, before.storage.exclusive, false) : result);
        if (before) disposeUnless(grads.get(edge)!, before, result);
      } else addToLeaf(edge, result);
    } catch (error) {
      result.dispose(); // no scope has it any more
      throw error;
    }
  }
}

let gradientWatcher: ((leaf: Tensor) => void) | null = null;

/** Runs `fn`; `seen` gets each leaf whose first gradient is made in it. */
export function watchGradients<T>(seen: (leaf: Tensor) => void, fn: () => T): T {
  const before = gradientWatcher;
  gradientWatcher = seen;
  try {
    return fn();
  } finally {
    gradientWatcher = before;
  }
}

/** Adds to a leaf's `.grad` in f32; takes `grad` over when it can. */
function addToLeaf(leaf: Tensor, grad: Tensor): void {
  holdGradient(leaf);
  const before = leaf.grad;
  if (!before) gradientWatcher?.(leaf);
  const takes = !before && grad.dtype === "f32" && grad.isBindable && grad.storage.exclusive;
  const sum = takes ? grad : accumulator!(before, grad, true, true);
  leaf.grad = sum.keep();
  disposeUnless(sum, before, grad);
}

/** Inside `atomic`: sees to it that the leaf has the gradient of now if `atomic` throws. What the launches added in place is not there then. */
function holdGradient(leaf: Tensor): void {
  const { device, grad } = leaf;
  if (!device.queue.isAtomic) return;
  const held = grad?.strided(grad.shape, grad.strides).keep() ?? null;
  device.queue.atEnd((failed) => {
    if (!failed || leaf.disposed || (held && leaf.grad === grad && !grad!.disposed)) {
      held?.dispose();
      return;
    }
    leaf.grad?.dispose();
    leaf.grad = held;
  });
}

function disposeUnless(kept: Tensor, ...others: readonly (Tensor | null)[]): void {
  for (const t of others) if (t && t !== kept) t.dispose();
  kept.escape();
}

/** The entries that `root` depends on, last recorded first. */
function reachable(root: TapeNode): TapeNode[] {
  const seen = new Set<TapeNode>([root]);
  const open = [root];
  for (let node = open.pop(); node; node = open.pop()) {
    for (const edge of node.edges) {
      if (edge instanceof TapeNode && !seen.has(edge)) {
        seen.add(edge);
        open.push(edge);
      }
    }
  }
  return [...seen].sort((a, b) => b.id - a.id);
}

/**
 * Activation checkpointing: runs `fn(...inputs)` without a tape, and again during backward. Parameters used inside get their gradients.
 * `fn` must compute the same both times and return one tensor: draws without a generator are repeated, and backward throws `AutogradError` if
 * anything that `fn` read (a parameter, a generator; not in `sideEffect`) has changed since, or if it launches something else (another number, module mode or tensor).
 * Host data that it uploads itself must be the same: that is not compared. Results of other ops that need a gradient must come in as inputs, not
 * by closure: backward refuses them.
 */
export function checkpoint<T extends readonly Tensor[]>(fn: (...inputs: T) => Tensor, ...inputs: T): Tensor {
  requireFunction("checkpoint", fn);
  if (!enabled) return fn(...inputs);
  const draws = allDraws();
  const first = new Footprint();
  // The result may be an input, or a tensor that fn only refers to: the tape needs one of its own.
  const own = first.during(() => withGrad(false, () => scope(() => fn(...inputs).detach()), "checkpoint()"));
  const seen = watcher ?? (() => undefined);
  return record(
    "checkpoint",
    inputs,
    own,
    inputs,
    (grad, saved, needs) => {
      const again = saved.map((t, i) => {
        const leaf = t.detach();
        if (needs[i]) leaf.requiresGrad = true;
        return leaf;
      });
      first.requireUnchanged();
      try {
        enableGrad(() => {
          // A scope of its own: during backward only what the tape saved is alive.
          const from = nextTapeId();
          const second = new Footprint();
          const result = watchLeaves(seen, () =>
            recomputing(() => withDraws(draws, () => scope(() => second.during(() => fn(...(again as unknown as T)))))),
          );
          first.requireSame(second);
          if (result.requiresGrad) withFirst(from, () => backward(result, grad));
        });
      } catch (error) {
        zeroGradients(again);
        throw error;
      }
      return again.map((leaf) => {
        const g = leaf.grad;
        const mine = g?.detach();
        g?.dispose();
        leaf.grad = null;
        return mine;
      });
    },
    true,
  );
}

/** `checkpoint` runs its function once more, in backward. */
let isRecomputing = false;
/** `sideEffect` runs: its launches are not compared. */
let isUncompared = false;

function recomputing<T>(fn: () => T): T {
  const before = isRecomputing;
  isRecomputing = true;
  try {
    return fn();
  } finally {
    isRecomputing = before;
  }
}

/**
 * Runs `fn` (synchronous), which changes tensors that no result depends on, e.g. running statistics, without recording. In a function that
 * `checkpoint` calls it runs the first time only, not in backward.
 */
export function sideEffect(fn: () => void): void {
  if (isRecomputing) return;
  const before = isUncompared;
  isUncompared = true;
  try {
    noGrad(fn);
  } finally {
    isUncompared = before;
  }
}

/** What a function launches: the storages older than it that it reads, with their versions, and a hash of its kernels and parameters. */
class Footprint {
  private readonly versions = new Map<Storage, number>();
  private hash = 0x811c9dc5;

  /** Runs `fn` and notes its launches, on whatever device. */
  during<T>(fn: () => T): T {
    const first = nextStorageSerial();
    const note = (launch: Launch): void => {
      if (isUncompared) return;
      const { bindings, pipeline } = launch;
      const access = Object.values(pipeline.kernel.bindings);
      for (const [i, { storage }] of bindings.entries()) {
        if (access[i] !== "write" && !storage.isConstant && storage.serial < first && !this.versions.has(storage))
          this.versions.set(storage, storage.version);
      }
      // A linear layer with an activation is fused without gradients, and two launches with them.
      if (!/^matmul| f:linear\./.test(pipeline.key)) this.mix(pipeline.key, launch.params);
    };
    onAnyLaunch(note);
    try {
      return fn();
    } finally {
      offAnyLaunch(note);
    }
  }

  /** Throws `AutogradError` if something that was read has been written since. */
  requireUnchanged(): void {
    for (const [storage, version] of this.versions) {
      if (storage.isLive && storage.version !== version) {
        throw new AutogradError(
          `checkpoint: the function read a tensor (${storage.label}, ${storage.used} bytes) that was changed in place before backward; recomputation would give another gradient. Change it after backward`,
        );
      }
    }
  }

  /** Throws `AutogradError` if the recomputation `other` launched something else, or on other tensors. */
  requireSame(other: Footprint): void {
    const isSame =
      this.hash === other.hash &&
      this.versions.size === other.versions.size &&
      [...this.versions.keys()].every((storage) => other.versions.has(storage));
    if (!isSame) {
      throw new AutogradError(
        "checkpoint: the function did not compute the same again in backward; a number, a module's mode or a tensor that it uses has changed since. Change it after backward, or pass it as an input",
      );
    }
  }

  /** FNV-1a over the text and the words. */
  private mix(text: string, words: Uint32Array | null): void {
    let hash = this.hash;
    for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
    for (const word of words ?? []) hash = Math.imul(hash ^ word, 0x01000193);
    this.hash = hash;
  }
}

/** Drops the gradients of `leaves`. */
export function zeroGradients(leaves: Iterable<Tensor>): void {
  if (typeof (leaves as Partial<Iterable<Tensor>> | undefined)?.[Symbol.iterator] !== "function")
    throw new ArgumentError(
      `zeroGradients: leaves must be an array of tensors; got ${shown(leaves)}. Pass model.parameters().`,
    );
  for (const leaf of leaves) {
    if (leaf.grad) holdGradient(leaf);
    leaf.grad?.dispose();
    leaf.grad = null;
  }
}
