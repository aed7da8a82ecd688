/** Activation checkpointing: a function that runs without a tape in forward and again, with one, in backward. */
import {
  backward,
  enableGrad,
  gradEnabled,
  leafWatcher,
  noGrad,
  record,
  watchLeaves,
  withFirst,
  withGrad,
} from "./autograd.ts";
import { AutogradError } from "./errors.ts";
import { currentLabel } from "./label.ts";
import { requireFunction } from "./options.ts";
import { offAnyLaunch, onAnyLaunch, withoutLaunches } from "./queue.ts";
import { allDraws, withDraws } from "./random.ts";
import { scope } from "./scope.ts";
import { nextStorageSerial } from "./storage.ts";
import { TapeNode, nextTapeId } from "./tape.ts";
import type { Backward } from "./tape.ts";
import type { Tensor } from "./tensor.ts";
import type { Launch, Storage } from "./types.ts";

/**
 * Activation checkpointing: runs `fn(...inputs)` without a tape, and recomputes it during backward. Parameters used
 * inside get their gradients. `fn` must compute the same both times and return one tensor. Draws without a generator
 * are repeated. Backward throws `AutogradError` if anything that `fn` read (a parameter, a generator; not in
 * `sideEffect`) has changed, or if `fn` makes other launches (another number, module mode or tensor). Host data that it
 * uploads must be the same; this is not checked. Results of other ops that need a gradient must be inputs: backward
 * refuses them if they come from a closure.
 */
export function checkpoint<T extends readonly Tensor[]>(fn: (...inputs: T) => Tensor, ...inputs: T): Tensor {
  requireFunction("checkpoint", fn);
  if (!gradEnabled()) return fn(...inputs);
  const draws = allDraws();
  const first = new Footprint();
  // The result may be an input, or a tensor that fn only refers to: the tape needs its own.
  const own = withUnread(false, () =>
    first.during(() => withGrad(false, () => scope(() => fn(...inputs).detach()), "checkpoint()")),
  );
  const seen = leafWatcher();
  return record(
    "checkpoint",
    inputs,
    own,
    inputs,
    (grad, saved, needs) => {
      const again = saved.map((t) => t.detach());
      const sums: (Tensor | null)[] = saved.map(() => null);
      first.requireUnchanged();
      try {
        enableGrad(() => {
          // A separate scope: during backward, only tensors that the tape saved are alive.
          const from = nextTapeId();
          for (const [i, t] of again.entries()) if (needs[i]) t.node = catchGradient(t, (sum) => (sums[i] = sum));
          const second = new Footprint();
          const result = watchLeaves(seen, () =>
            recomputing(() => withDraws(draws, () => scope(() => second.during(() => fn(...(again as unknown as T)))))),
          );
          first.requireSame(second);
          if (result.requiresGrad) withFirst(from, () => backward(result, grad));
        });
        return sums.map((sum) => sum?.detach());
      } finally {
        for (const sum of sums) sum?.dispose();
      }
    },
    true,
  );
}

/** The tape's entry for an input of a recomputed function: `caught` gets its gradient, a handle that the caller disposes. */
function catchGradient(input: Tensor, caught: (sum: Tensor) => void): TapeNode {
  const backward: Backward = (sum) => {
    caught(sum.strided(sum.shape, sum.strides).keep());
    return [];
  };
  return new TapeNode({ name: "input", label: currentLabel(), edges: [], shape: input.shape, saved: [], backward });
}

/** True while `checkpoint` recomputes its function in backward. */
let isRecomputing = false;
/** True while `sideEffect` runs: its launches are not compared. */
let isUncompared = false;

function recomputing<T>(fn: () => T): T {
  const before = isRecomputing;
  isRecomputing = true;
  try {
    return withUnread(true, fn);
  } finally {
    isRecomputing = before;
  }
}

/** True while the innermost `checkpoint` recomputes: nothing reads the values of its function's result. */
let isResultUnread = false;

function withUnread<T>(value: boolean, fn: () => T): T {
  const before = isResultUnread;
  isResultUnread = value;
  try {
    return fn();
  } finally {
    isResultUnread = before;
  }
}

/**
 * Runs `fn` (synchronous), which makes the result of a function of `checkpoint` with one op. The recomputation puts the op on the tape without
 * its launches. The op's backward must not read the result, and no other code may.
 */
export const lastOp = (fn: () => Tensor): Tensor => (isResultUnread ? withoutLaunches(fn) : fn());

/**
 * Runs `fn` (synchronous) without recording. `fn` changes tensors that no result depends on, e.g. running statistics.
 * In a function of `checkpoint`, it runs only in the forward, not in the recomputation.
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

/** Record of a function's launches: the older storages that it reads, with their versions, and a hash of its kernels and parameters. */
class Footprint {
  private readonly versions = new Map<Storage, number>();
  private hash = 0x811c9dc5;

  /** Runs `fn` and records its launches, on any device. */
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
      // A linear layer with an activation is one launch without gradients, and two with them.
      if (!/^matmul| f:linear\./.test(pipeline.key)) this.mix(pipeline.key, launch.params);
    };
    onAnyLaunch(note);
    try {
      return fn();
    } finally {
      offAnyLaunch(note);
    }
  }

  /** Throws `AutogradError` if a storage that was read has been written since. */
  requireUnchanged(): void {
    for (const [storage, version] of this.versions) {
      if (storage.isLive && storage.version !== version) {
        throw new AutogradError(
          `checkpoint: tensors that the function reads must be unchanged until backward; got one that was changed in place (${storage.label}, ${storage.used} bytes), which would change the gradient. Change it after backward.`,
        );
      }
    }
  }

  /** Throws `AutogradError` if the recomputation `other` made other launches, or used other tensors. */
  requireSame(other: Footprint): void {
    const isSame =
      this.hash === other.hash &&
      this.versions.size === other.versions.size &&
      [...this.versions.keys()].every((storage) => other.versions.has(storage));
    if (!isSame) {
      throw new AutogradError(
        "checkpoint: the function must compute the same again in backward; got other launches, because a number, a module's mode or a tensor that it uses has changed. Change it after backward, or pass it as an input.",
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
