/**
 * The errors of the engine. Each says what failed (the op), what was required, what came, and what to do.
 * An error is raised before any work of the failing call starts: nothing is lost and the device stays usable.
 */

/** Base of every error this package raises on purpose. */
export class JanusError extends Error {
  override name = this.constructor.name;
}

/** Shapes that do not fit the op. */
export class ShapeError extends JanusError {}

/** A dtype the op does not take. */
export class DTypeError extends JanusError {}

/** A value outside its range, or an option that is not known. */
export class ArgumentError extends JanusError {}

/** Use of a tensor, device or capture after `dispose()`. */
export class DisposedError extends JanusError {}

/** Tensors of different devices in one call, or a device that cannot do what was asked. */
export class DeviceError extends JanusError {}

/** A misuse of the tape: backward twice, no graph, a saved tensor changed in place. */
export class AutogradError extends JanusError {}

/** Something that a capture cannot hold (host data, a read-back), or a replay that does not agree with eager. */
export class CaptureError extends JanusError {}

/** An allocation beyond the device's byte budget; nothing was allocated. */
export class OutOfMemoryError extends JanusError {}

/** The GPU went away; every tensor of the device is gone with it. */
export class DeviceLostError extends JanusError {}

/**
 * NaN or infinity when a model computes an answer, an image or codes. What follows from them would look like a result, so none is given.
 * Tokens, codes and images are counted from 0.
 */
export class NotFiniteError extends JanusError {
  /** What computed them, e.g. `language head (lm_head)`. */
  readonly part: string;
  /** The token or code of the first NaN or infinity; null if there are no steps. */
  readonly step: number | null;
  /** @param place position in the result, e.g. `token 5 of the answer` */
  constructor(op: string, part: string, place: string, step: number | null = null) {
    super(
      `${op}: values must be finite; got values that are not finite (NaN or infinity) from the ${part}, ${place}. The weights are damaged, or their dtype is too narrow: load the model again, look at it with \`janus verify\`, or take another dtype.`,
    );
    this.part = part;
    this.step = step;
  }
}

/** A kernel that does not parse, specialise, compile or bind. Carries the WGSL lines around the message. */
export class KernelError extends JanusError {
  /** The specialised source, if there is one. */
  readonly source: string | undefined;
  constructor(message: string, source?: string) {
    super(message);
    this.source = source;
  }
}

/** `[2,3]` as people write shapes in messages. */
export const shapeText = (shape: readonly number[]): string => `[${shape.join(", ")}]`;

/** The message of whatever was thrown. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
