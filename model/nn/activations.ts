/** Activations and other layers without parameters, as modules for `Sequential`: x [...] → [...]. */
import { ArgumentError, knownOptions } from "../../engine/index.ts";
import type { Generator, Tensor } from "../../engine/index.ts";
import * as F from "../../kernels/index.ts";
import { Module } from "./module.ts";

/** x → max(x, 0). */
export class ReLU extends Module {
  forward(x: Tensor): Tensor {
    return F.relu(x);
  }
}

/** x → x if x > 0, else x · negativeSlope. */
export class LeakyReLU extends Module {
  readonly negativeSlope: number;

  constructor(negativeSlope = 0.01, ...none: readonly never[]) {
    super(...none);
    if (!Number.isFinite(negativeSlope))
      throw new ArgumentError(
        `LeakyReLU: negativeSlope must be a finite number; got ${String(negativeSlope)}. Change it.`,
      );
    this.negativeSlope = negativeSlope;
  }

  forward(x: Tensor): Tensor {
    return F.where(F.gt(x, 0), x, F.mul(x, this.negativeSlope));
  }
}

export interface GELUOptions {
  /** "tanh": the approximation by tanh. Default: "none", the exact function. */
  readonly approximate?: "none" | "tanh";
}

/** Gaussian error linear unit (Hendrycks and Gimpel 2016). */
export class GELU extends Module {
  readonly approximate: "none" | "tanh";

  constructor(options: GELUOptions = {}) {
    super();
    knownOptions("GELU", options, ["approximate"]);
    this.approximate = options.approximate ?? "none";
    if (this.approximate !== "none" && this.approximate !== "tanh")
      throw new ArgumentError(`GELU: approximate must be none or tanh; got ${String(this.approximate)}. Change it.`);
  }

  forward(x: Tensor): Tensor {
    return this.approximate === "tanh" ? F.geluTanh(x) : F.gelu(x);
  }
}

/** x → x · sigmoid(x), also called swish. */
export class SiLU extends Module {
  forward(x: Tensor): Tensor {
    return F.silu(x);
  }
}

/** `F.tanh` as a module. */
export class Tanh extends Module {
  forward(x: Tensor): Tensor {
    return F.tanh(x);
  }
}

/** `F.sigmoid` as a module. */
export class Sigmoid extends Module {
  forward(x: Tensor): Tensor {
    return F.sigmoid(x);
  }
}

/** Softmax over dimension `dim` (default: the last). */
export class Softmax extends Module {
  readonly dim: number;

  constructor(dim = -1, ...none: readonly never[]) {
    super(...none);
    this.dim = requireDim("Softmax", dim);
  }

  forward(x: Tensor): Tensor {
    return F.softmax(x, this.dim);
  }
}

/** Logarithm of the softmax over dimension `dim` (default: the last). */
export class LogSoftmax extends Module {
  readonly dim: number;

  constructor(dim = -1, ...none: readonly never[]) {
    super(...none);
    this.dim = requireDim("LogSoftmax", dim);
  }

  forward(x: Tensor): Tensor {
    return F.logSoftmax(x, this.dim);
  }
}

/** x → x. */
export class Identity extends Module {
  forward(x: Tensor): Tensor {
    return x;
  }
}

/** Merges dimensions `start` to `end` into one (default: all but the first): [N, C, H, W] → [N, C · H · W]. */
export class Flatten extends Module {
  readonly start: number;
  readonly end: number;

  constructor(start = 1, end = -1, ...none: readonly never[]) {
    super(...none);
    this.start = requireDim("Flatten", start);
    this.end = requireDim("Flatten", end);
  }

  forward(x: Tensor): Tensor {
    return F.flatten(x, this.start, this.end);
  }
}

function requireDim(op: string, dim: number): number {
  if (!Number.isInteger(dim))
    throw new ArgumentError(
      `${op}: a dimension must be a whole number; got ${String(dim)}. Negative numbers count from the end.`,
    );
  return dim;
}

export interface DropoutModuleOptions {
  /** Source of the masks, made before a captured step. Default: the draws that `manualSeed` sets. */
  readonly generator?: Generator;
  /** With `generator`: which op of the program draws (default: 0). Each dropout of a model needs its own, else their masks are the same. */
  readonly site?: number;
}

/**
 * In training mode, sets elements to 0 with probability p and scales the rest by 1 / (1 − p); after `eval()` the result
 * is x. Srivastava et al. 2014.
 */
export class Dropout extends Module {
  readonly p: number;
  private readonly source: { readonly generator: Generator; readonly site: number } | null;

  constructor(p = 0.5, options: DropoutModuleOptions = {}) {
    super();
    knownOptions("Dropout", options, ["generator", "site"]);
    const { generator, site } = options;
    if (!(p >= 0 && p < 1))
      throw new ArgumentError(`Dropout: p must be a probability from 0 to below 1; got ${String(p)}. Change it.`);
    if (site !== undefined && !generator)
      throw new ArgumentError("Dropout: site needs a generator; got none. Pass both, or neither.");
    this.p = p;
    this.source = generator ? { generator, site: site ?? 0 } : null;
  }

  forward(x: Tensor): Tensor {
    if (!this.training || this.p === 0) return x;
    return F.dropout(x, this.p, this.source ?? {});
  }
}
