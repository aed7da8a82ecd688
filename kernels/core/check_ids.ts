/** Out-of-range ids, found on devices with `checks`: the next synchronisation throws for them. Other devices launch nothing here. */
import { emptyForHost, grid1d, kernel, launch, scope } from "../../engine/index.ts";
import type { Device, IdCheck, Tensor } from "../../engine/index.ts";
import { contiguousCopy } from "./map.ts";
import { windowsOf } from "./windows.ts";

const check = kernel(
  "check_ids",
  new URL("./check_ids.wgsl", import.meta.url),
  { ids: "read", faults: "read_write" },
  { count: "u32", position: "u32", limit: "u32", ignored: "u32", has_ignored: "u32", site: "u32" },
);

/** The record that the checks of a device write, u32 [4]; it lives as long as the device. */
const records = new WeakMap<Device, Tensor>();

function recordOf(device: Device): Tensor {
  const known = records.get(device);
  if (known) return known;
  const record = device.pool.outsideCaptures(() =>
    emptyForHost([4], { dtype: "u32", device, label: "faults" }).escape(),
  );
  record.storage.markConstant(); // no result depends on it: checkpoint() may find it written
  device.faults?.readFrom(record.storage);
  records.set(device, record);
  return record;
}

/**
 * On a device with `checks`: checks that `ids` (i32 or u32) of `op` are in 0 … `limit` − 1, or equal `ignored`.
 * `device.sync()`, or the next read-back, throws `ArgumentError` with the op, the input, the id and its position.
 */
export function checkIdRange(
  op: string,
  input: string,
  ids: Tensor,
  limit: number,
  ignored: number | null = null,
): void {
  checkWords(ids, { op, input, limit, dtype: ids.dtype === "i32" ? "i32" : "u32", ignored });
}

/** On a device with `checks`: notes that the words of `ids` must pass a check. */
export function checkWords(ids: Tensor, { op, input, limit, ignored, ...kind }: IdCheck): void {
  const { device } = ids;
  const { faults } = device;
  if (!faults || ids.size === 0) return;
  const site = faults.siteOf({ op, input, limit, ignored, ...kind });
  const record = recordOf(device);
  scope(() => {
    for (const { start, count, buffers } of windowsOf("checkIdRange", ids.size, { ids: contiguousCopy(ids) })) {
      launch(check, {
        buffers: { ...buffers, faults: record },
        params: {
          count,
          position: start,
          limit,
          ignored: (ignored ?? 0) >>> 0,
          has_ignored: Number(ignored !== null),
          site,
        },
        grid: grid1d(1),
        cost: { flops: count, bytes: 4 * count },
      });
    }
  });
}
