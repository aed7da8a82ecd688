/**
 * Reverse-mode differentiation: a tape of {inputs, saved, backward}. Ops call `record` after they have computed their result;
 * `backward()` walks the entries from the last to the first. Gradients of leaves accumulate in f32; gradients between
 * ops keep their dtype. There is no double backward.
 */
import { ArgumentError, AutogradError, DTypeError, ShapeError, shapeText } from "./errors.ts";
import { currentLabel, withLabel } from "./label.ts";
import { requireFunction, shown } from "./options.ts";
import { refusePromise } from "./promise.ts";
import { madeHere, scope } from "./scope.ts";
import { encode, isFloat } from "./dtype.ts";
import { deviceConstant } from "./constants.ts";
import { sameShape } from "./shape.ts";
import { TapeNode } from "./tape.ts";
import type { Backward, Prior } from "./tape.ts";
import type { Tensor } from "./tensor.ts";
import type { Device } from "./device.ts";

let enabled = true;
let accumulator: ((into: Tensor | null, grad: Tensor, inPlace: boolean, leaf: boolean) => Tensor) | null = null;

/** True unless inside `noGrad`. */
export const gradEnabled = (): boolean => enabled;

/** Sets the function that adds gradients, and casts them to f32 for leaves; `kernels/` calls it once. */
export function setGradientAccumulator(fn: NonNullable<typeof accumulator>): void {
  accumulator = fn;
}

let noGrads = 0;

/** Number of open `noGrad` calls, without those of `checkpoint`. */
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

/** Runs `fn` (synchronous) with recording on or off; `what` names the caller to a user whose `fn` returns a promise. */
export function withGrad<T>(value: boolean, fn: () => T, what: string): T {
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

/** What `watchLeaves` has set, for a function that runs again later. */
export const leafWatcher = (): ((leaf: Tensor) => void) => watcher ?? (() => undefined);

/**
 * Runs `fn` (synchronous); `seen` gets each leaf that requires a gradient when an op on it is recorded, also in later
 * recomputations by `checkpoint`.
 */
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
 * @param output a new tensor that has no other owner
 * @param saved tensors that `backward` reads; the tape keeps its own handles, so scopes may dispose the originals. The
 *   handles are views outside the tape: gradients do not flow through them
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

/**
 * Calls `fn` with the gradient of `t`, the result of an op, when backward reaches it. A tensor that `fn` returns
 * replaces the gradient. Throws `AutogradError` for a leaf.
 */
export function onGrad(t: Tensor, fn: (grad: Tensor) => Tensor | void): void {
  if (!t.node)
    throw new AutogradError(
      `onGrad: the tensor must be the result of an op that needs a gradient; got ${t}. Read the gradient of a leaf from .grad.`,
    );
  t.node.hooks.push(fn);
}

/** The gradient 1 with which `backward()` starts. */
const one = (device: Device): Tensor =>
  deviceConstant(device, "one", () => ({ shape: [], dtype: "f32", bytes: encode([1], "f32") }));

/**
 * Differentiates `loss` with respect to every leaf that requires a gradient, and adds to their `.grad` (f32). Frees the
 * tape on the way.
 * @param grad gradient of `loss`, of its shape; optional for a loss of one element
 * @throws AutogradError if `loss` needs no gradient, or if its graph was freed or changed in place
 */
export function backward(loss: Tensor, grad?: Tensor): void {
  if (typeof (loss as Partial<Tensor> | undefined)?.check !== "function")
    throw new ArgumentError(`backward: the loss must be a Tensor; got ${shown(loss)}. Pass the result of a loss.`);
  loss.check();
  if (!loss.requiresGrad)
    throw new AutogradError(
      `backward: the loss must depend on a tensor that requires a gradient; got ${loss}. Set requiresGrad on a leaf, and compute the loss outside noGrad.`,
    );
  if (grad && !isFloat(grad.dtype))
    throw new DTypeError(`backward: the gradient must have a floating dtype; got ${grad}. Cast it to f32.`);
  if (grad ? !sameShape(grad.shape, loss.shape) : loss.size !== 1) {
    throw new ShapeError(
      `backward: the gradient must have the shape of the loss, ${shapeText(loss.shape)}; got ${grad ? String(grad) : "none, and a loss of several elements"}. Pass one of this shape.`,
    );
  }
  if (!accumulator)
    throw new AutogradError("backward: a gradient accumulator must be set; got none. Import janus-webgpu/kernels.");
  noGrad(() => {
    const seed = grad ?? one(loss.device);
    const start = seed.strided(loss.shape, grad ? grad.strides : loss.shape.map(() => 1));
    if (!loss.node) addToLeaf(loss, start);
    else withLabel("backward", () => walk(loss.node!, start));
  });
}

// Entries older than this belong to the graph around a checkpoint, whose own backward is running.
let firstId = 0;

/** Runs `fn`, a backward that may not pass an entry older than `id`. */
export function withFirst(id: number, fn: () => void): void {
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
        `checkpoint: the function must get results of other ops as inputs; got one of "${node.name}" from a closure. Pass that tensor to checkpoint() as an input, so that it gets a gradient.`,
      );
    }
    if (!node.backward)
      throw new AutogradError(
        `backward: the graph must not have been used before; got one through "${node.name}" that backward has freed. Run the forward again (there is no double backward and no retained graph).`,
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

/** Applies the hooks to `grad`. The result is a view of our own, because a hook may return a tensor that the user keeps. */
function replace(node: TapeNode, grad: Tensor, hook: (grad: Tensor) => Tensor | void): Tensor {
  const by = scope(() => {
    const given = hook(grad);
    refusePromise(given, "onGrad()");
    if (!given || given === grad) return null;
    if (!sameShape(given.shape, node.shape))
      throw new ShapeError(
        `onGrad: a hook on a result of "${node.name}" must return a gradient of shape ${shapeText(node.shape)}; got ${given}. Return one of that shape, or nothing.`,
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
        `backward: tensors saved by "${node.name}" must be unchanged since the forward; got ${saved}, which was changed in place. Change a copy, or change it after backward.`,
      );
    }
  }
  const needs = node.edges.map((edge) => edge !== null);
  const taken = new Map<number, Tensor | null>();
  const priors = { take: (i: number) => takePrior(node, i, grads, taken) };
  // The results of each backward outlive its scope; its temporaries do not.
  const results = scope(() => {
    const given = node.backward!(
      grad,
      node.saved.map((s) => s.tensor),
      needs,
      priors,
    );
    return given.map((g, i) => {
      if (!g || !needs[i]) return null;
      // Only tensors that this backward made may be taken over; others (the gradient itself, a saved or a foreign
      // tensor) get a view.
      const isOwn = g === taken.get(i) || (madeHere(g) && given.indexOf(g) === i);
      return isOwn ? g : g.strided(g.shape, g.strides);
    });
  });
  for (const [i, edge] of node.edges.entries()) {
    const result = results[i];
    if (!edge || !result) continue;
    if (result === taken.get(i)) continue; // the sum was changed in place
    result.escape();
    if (!sameShape(result.shape, edge.shape)) {
      for (const t of results) t?.dispose();
      throw new ShapeError(
        `backward of "${node.name}": gradient ${i} must have the shape of its input, ${shapeText(edge.shape)}; got ${shapeText(result.shape)}. Correct the backward of the op.`,
      );
    }
    try {
      if (taken.has(i)) replaceSum(edge, result, grads);
      else if (edge instanceof TapeNode) {
        const before = grads.get(edge);
        grads.set(edge, before ? accumulator!(before, result, before.storage.exclusive, false) : result);
        if (before) disposeUnless(grads.get(edge)!, before, result);
      } else addToLeaf(edge, result);
    } catch (error) {
      result.dispose(); // no scope owns it any more
      throw error;
    }
  }
}

/** `Priors.take` of the backward of `node`; notes the sum in `taken`. */
function takePrior(
  node: TapeNode,
  i: number,
  grads: ReadonlyMap<TapeNode, Tensor>,
  taken: Map<number, Tensor | null>,
): Prior | null {
  const edge = node.edges[i];
  if (!edge || node.edges.some((other, j) => j !== i && other === edge)) return null;
  const isNode = edge instanceof TapeNode;
  if (!isNode) holdGradient(edge);
  const sum = (isNode ? grads.get(edge) : edge.grad) ?? null;
  taken.set(i, sum);
  return { sum, inPlace: sum !== null && sum.isBindable && (!isNode || sum.storage.exclusive) };
}

/** Puts `sum`, complete, in the place of the gradient of `edge`. */
function replaceSum(edge: TapeNode | Tensor, sum: Tensor, grads: Map<TapeNode, Tensor>): void {
  if (edge instanceof TapeNode) {
    grads.get(edge)?.dispose();
    grads.set(edge, sum);
    return;
  }
  const before = edge.grad;
  if (!before) gradientWatcher?.(edge);
  edge.grad = sum.keep();
  before?.dispose();
}

let gradientWatcher: ((leaf: Tensor) => void) | null = null;

/** Runs `fn`; `seen` gets each leaf that gets its first gradient in it. */
export function watchGradients<T>(seen: (leaf: Tensor) => void, fn: () => T): T {
  const before = gradientWatcher;
  gradientWatcher = seen;
  try {
    return fn();
  } finally {
    gradientWatcher = before;
  }
}

/** Adds to a leaf's `.grad` in f32; takes over `grad` if possible. */
function addToLeaf(leaf: Tensor, grad: Tensor): void {
  holdGradient(leaf);
  const before = leaf.grad;
  if (!before) gradientWatcher?.(leaf);
  const takes = !before && grad.dtype === "f32" && grad.isBindable && grad.storage.exclusive;
  const sum = takes ? grad : accumulator!(before, grad, true, true);
  leaf.grad = sum.keep();
  disposeUnless(sum, before, grad);
}

/**
 * Inside `atomic`: restores the present gradient of the leaf if `atomic` throws. In that case the launches that add to
 * it in place do not run.
 */
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

/** Returns the entries that `root` depends on, last recorded first. */
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

/** Disposes the gradients of `leaves` and sets `.grad` to null. */
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
