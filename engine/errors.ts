/**
 * The errors of the engine. Each message names the op, what was required, what it got, and what to do. An error is
 * thrown before any work of the failing call starts: nothing is lost and the device stays usable.
 */

/** Base class of every error that this package throws on purpose. */
export class JanusError extends Error {
  override name = this.constructor.name;
}

/** Shapes that do not fit the op. */
export class ShapeError extends JanusError {}

/** A dtype that the op does not accept. */
export class DTypeError extends JanusError {}

/** A value outside its range, or an unknown option. */
export class ArgumentError extends JanusError {}

/** Use of a tensor, device or capture after `dispose()`. */
export class DisposedError extends JanusError {}

/** Tensors of different devices in one call, or a request that the device cannot fulfil. */
export class DeviceError extends JanusError {}

/** A misuse of the tape: backward twice, no graph, a saved tensor changed in place. */
export class AutogradError extends JanusError {}

/** An operation that a capture cannot record (uploading host data, a read-back), or a replay that differs from an eager run. */
export class CaptureError extends JanusError {}

/** An allocation beyond the device's byte budget; nothing was allocated. */
export class OutOfMemoryError extends JanusError {}

/** The GPU was lost, and with it every tensor of the device. */
export class DeviceLostError extends JanusError {}

/**
 * NaN or infinity while a model computes an answer, an image or codes. Further results would look valid, so none are
 * returned. Tokens, codes and images are counted from 0.
 */
export class NotFiniteError extends JanusError {
  /** Part of the model that computed them, e.g. `language head (lm_head)`. */
  readonly part: string;
  /** The token or code of the first NaN or infinity; null if there are no steps. */
  readonly step: number | null;
  /** @param place position in the result, e.g. `token 5 of the answer` */
  constructor(op: string, part: string, place: string, step: number | null = null) {
    super(
      `${op}: values must be finite; got values that are not finite (NaN or infinity) from the ${part}, ${place}. The weights are damaged, or their dtype is too narrow: load the model again, check it with \`janus verify\`, or use another dtype.`,
    );
    this.part = part;
    this.step = step;
  }
}

/** A kernel that does not parse, specialise, compile or bind. Carries the WGSL lines around the message. */
export class KernelError extends JanusError {
  /** The specialised source, if there is one. Not enumerable: printing the error does not print hundreds of lines. */
  declare readonly source: string | undefined;
  constructor(message: string, source?: string) {
    super(message);
    Object.defineProperty(this, "source", { value: source });
  }
}

/** Formats a shape for messages: `[2, 3]`. */
export const shapeText = (shape: readonly number[]): string => `[${shape.join(", ")}]`;

/** Message of any thrown value. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
