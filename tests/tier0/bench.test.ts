/** Rates of the bench: none from a GPU time that cannot be. */
import { expect, it } from "vitest";
import { ratesOf } from "../../bench/harness.ts";

const ceilings = { gflops: 100, gbytesPerSecond: 10 };

it("come from the GPU time where it is within the wall time", () => {
  const rates = ratesOf({ medianMs: 10, flops: 5e8, bytes: 2e7 }, 12, ceilings);
  expect(rates).toEqual({ gflops: 50, gbytesPerSecond: 2, flopShare: 0.5, byteShare: 0.2, isDisputed: false });
});
it("are none, and the row is flagged, where the GPU time exceeds the wall time", () => {
  const rates = ratesOf({ medianMs: 699, flops: 5e8, bytes: 2e7 }, 348, ceilings);
  expect(rates).toEqual({ gflops: null, gbytesPerSecond: null, flopShare: null, byteShare: null, isDisputed: true });
});
it("are none without timestamps, which is no disagreement", () => {
  expect(ratesOf(null, 12, ceilings)).toMatchObject({ gflops: null, flopShare: null, isDisputed: false });
});
