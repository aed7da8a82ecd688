/** State dicts: tensors by field path, and what does not fit when one is loaded. */
import {
  ArgumentError,
  JanusError,
  Tensor,
  elementBytes,
  noGrad,
  sameShape,
  scope,
  shapeText,
  shown,
} from "../../engine/index.ts";
import { cast, contiguous } from "../../kernels/index.ts";

/** Keys or shapes of a state dict that do not fit the module; nothing was loaded. */
export class StateDictError extends JanusError {}

export type StateDict = Record<string, Tensor>;

/** Throws `ArgumentError` if `state` is not an object of tensors. */
export function requireState(state: StateDict): void {
  if (typeof state !== "object" || state === null || state instanceof Map || Array.isArray(state))
    throw new ArgumentError(
      `loadStateDict: the state must be an object of tensors by path; got ${shown(state)}. Pass what stateDict() gives.`,
    );
  for (const [key, value] of Object.entries(state))
    if (!(value instanceof Tensor))
      throw new ArgumentError(
        `loadStateDict: "${key}" must be a Tensor; got ${shown(value)}. Make one by tensor(values).`,
      );
}

/** Describes the mismatch between `state` and a parameter with these paths. */
export function problemsOf(parameter: Tensor, paths: readonly string[], state: StateDict, strict: boolean): string[] {
  const given = paths.filter((k) => k in state);
  if (!given.length) return strict ? [`missing: ${paths.join(" or ")} ${shapeText(parameter.shape)}`] : [];
  return given
    .filter((k) => !sameShape(parameter.shape, state[k]!.shape))
    .map((k) => `misshapen: ${k} is ${shapeText(state[k]!.shape)}, the module has ${shapeText(parameter.shape)}`);
}

export const isSameView = (a: Tensor, b: Tensor): boolean =>
  a.storage === b.storage && a.offset === b.offset && a.dtype === b.dtype && a.strides.join() === b.strides.join();

const COMPARED_BYTES = 16 * 2 ** 20;

/** Resolves to true if two tensors of one shape have the same bits (both as f32 if their dtypes differ). Reads them back in parts. */
export async function haveSameBits(a: Tensor, b: Tensor): Promise<boolean> {
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
