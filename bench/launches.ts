/** What does a launch cost on the CPU: recorded and encoded eagerly, and replayed from a capture. */
import { capture, now } from "../engine/index.ts";
import type { Device } from "../engine/index.ts";
import { addInto, full } from "../kernels/index.ts";
import { median } from "./stats.ts";

export interface LaunchCost {
  /** µs of a launch: the op's TypeScript and the record. */
  readonly recordUs: number;
  /** µs of a launch: encoding and submitting. */
  readonly encodeUs: number;
  /** µs of a launch: replay of a capture. */
  readonly replayUs: number;
}

const LAUNCHES = 200;

export async function measureLaunches(device: Device): Promise<LaunchCost> {
  const a = full([64], 0, { device });
  const b = full([64], 0, { device });
  const body = (): void => {
    for (let i = 0; i < LAUNCHES / 2; i++) {
      addInto(a, b);
      addInto(b, a);
    }
  };
  const record: number[] = [];
  const encode: number[] = [];
  const replay: number[] = [];
  body();
  await device.sync();
  const captured = await capture(body, { device });
  await device.sync();
  for (let i = 0; i < 30; i++) {
    const start = now();
    body();
    const recorded = now();
    device.flush();
    const encoded = now();
    await device.sync();
    const replayStart = now();
    captured.replay();
    replay.push(((now() - replayStart) * 1000) / LAUNCHES);
    await device.sync();
    record.push(((recorded - start) * 1000) / LAUNCHES);
    encode.push(((encoded - recorded) * 1000) / LAUNCHES);
  }
  captured.dispose();
  a.dispose();
  b.dispose();
  return { recordUs: median(record), encodeUs: median(encode), replayUs: median(replay) };
}
