/** The self-test of `janus doctor`: a few small programs whose results are known on the host, to the bit if the device promises it. */
import { bf16Bits, bf16Value, capture, tensor } from "../engine/index.ts";
import type { Device, HostArray } from "../engine/index.ts";
import { add, cast, castInto, full, matmul, mul } from "../kernels/index.ts";
import { PROBES, lossyOps } from "./doctor_not_finite.ts";
import { messageOf } from "../engine/errors.ts";

export interface Check {
  readonly name: string;
  readonly passed: boolean;
  /** The compared values, or the failure. */
  readonly detail: string;
  readonly ms: number;
}

/** Result of a check; a failed check throws. */
type Run = (device: Device) => Promise<string>;

const CHECKS: readonly [string, Run][] = [
  ["read-back", readBack],
  ["matmul", matmulAgainstHost],
  ["bf16 storage", bf16Storage],
  ["capture and replay", captureAndReplay],
  ["NaN and infinity", notFinite],
];

/** A check that found something else than it should. */
class Mismatch extends Error {}

/** Runs the checks one after the other; what one throws fails it and no other. */
export async function* runChecks(device: Device, signal?: AbortSignal): AsyncGenerator<Check> {
  for (const [name, run] of CHECKS) {
    signal?.throwIfAborted();
    const started = performance.now();
    const ended = (passed: boolean, detail: string): Check => ({
      name,
      passed,
      detail,
      ms: performance.now() - started,
    });
    yield await run(device).then(
      (detail) => ended(true, detail),
      (error: unknown) => ended(false, messageOf(error)),
    );
  }
}

/** Numbers in [−1, 1) that look random and are always the same. */
function noise(count: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

function requireSame(got: HostArray, expected: ArrayLike<number>): void {
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(got[i], expected[i])) throw new Mismatch(`element ${i} is ${got[i]}, should be ${expected[i]}`);
  }
}

async function readBack(device: Device): Promise<string> {
  const values = noise(1_000_003, 1);
  values.set([0, -0, 1e-38, 3.4e38, -3.4e38]);
  using x = tensor(values, { device });
  requireSame(await x.data(), values);
  return "4 MB read back equal to what was written";
}

async function matmulAgainstHost(device: Device): Promise<string> {
  const [rows, inner, columns] = [130, 257, 129];
  const [a, b] = [noise(rows * inner, 2), noise(inner * columns, 3)];
  using x = tensor(a, { shape: [rows, inner], device });
  using y = tensor(b, { shape: [inner, columns], device });
  using z = matmul(x, y);
  const got = await z.data();
  let [difference, norm] = [0, 0];
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      let sum = 0;
      for (let k = 0; k < inner; k++) sum += a[i * inner + k]! * b[k * columns + j]!;
      difference += (got[i * columns + j]! - sum) ** 2;
      norm += sum ** 2;
    }
  }
  const error = Math.sqrt(difference / norm);
  // Roundings of f32 in sums of this length, as in the project's tests; TF32 would be off by 4e-4.
  const allowed = 8 * 2 ** -24 * (1 + Math.sqrt(inner));
  const text = `relative error ${error.toExponential(1)} against float64, allowed ${allowed.toExponential(1)}`;
  if (!(error <= allowed)) throw new Mismatch(text);
  return text;
}

async function bf16Storage(device: Device): Promise<string> {
  const values = noise(4099, 4);
  values.set([0, -0, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1e-30, 3e38, -65504]); // ties go to the even one
  const expected = Float32Array.from(values, (v) => bf16Value(bf16Bits(v)));
  using uploaded = tensor(values, { dtype: "bf16", device });
  using widened = cast(uploaded, "f32");
  requireSame(await widened.data(), expected);
  using x = tensor(values, { device });
  using narrowed = cast(x, "bf16");
  requireSame(await narrowed.data(), expected);
  return `${values.length} values rounded as on the host, both ways`;
}

async function notFinite(device: Device): Promise<string> {
  const lossy = await lossyOps(device);
  const ops = new Set(PROBES.map(({ op }) => op)).size;
  if (lossy.length)
    throw new Mismatch(`${lossy.length} of ${ops} ops lose NaN or infinities on this device: ${lossy.join(", ")}`);
  return `${ops} ops carry NaN and infinities, in ${PROBES.length} cases`;
}

async function captureAndReplay(device: Device): Promise<string> {
  const values = noise(1000, 5);
  using x = tensor(values, { device });
  using captured = await capture(() => add(mul(x, 2), 1), { device, verify: true });
  using result = captured.result;
  using tens = full([values.length], 10, { device });
  castInto(x, tens);
  captured.replay();
  requireSame(await result.data(), values.fill(21));
  return `${captured.launches.length} launches, replayed on other data`;
}
