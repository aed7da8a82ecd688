/** The tiny fixture's `Janus` on a device of its own, for the tests of a file. */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect } from "vitest";
import { Device, setDevice } from "../index.ts";
import { Janus } from "../model/janus/node/index.ts";

export interface TinyJanus {
  readonly device: Device;
  readonly janus: Janus;
  /** Nothing but the weights is alive. */
  readonly expectClean: () => Promise<void>;
}

/** Opens both before the tests of the calling `describe`, calls `ready` with them, and destroys the device behind the tests. */
export function useTinyJanus(ready: (tiny: TinyJanus) => void): void {
  let device: Device;
  beforeAll(async () => {
    device = await Device.create();
    setDevice(device);
    const janus = await Janus.fromPretrained(fileURLToPath(new URL("../../shared/fixtures/tiny/hf", import.meta.url)));
    const live = device.pool.stats.liveBytes;
    const expectClean = async (): Promise<void> => {
      await device.sync();
      expect(device.pool.stats.liveBytes, device.pool.table()).toBe(live);
    };
    ready({ device, janus, expectClean });
  });
  afterAll(() => device.destroy());
}
