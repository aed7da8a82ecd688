/** The profiler: GPU time by kernel and module, as rows, as a table and as a Chrome trace. */
import { describe, expect, it } from "vitest";
import { Device, DeviceError, F, profile, scope, tally, withLabel } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { errorOf, useDevice } from "../gpu.ts";

const device = useDevice();

const program = (x: Tensor): void =>
  scope(() => {
    const hidden = withLabel("layers", () => withLabel("0", () => withLabel("mlp", () => x.mul(2).exp())));
    withLabel("layers", () => withLabel("1", () => hidden.transpose().contiguous().tanh()));
    hidden.sum();
  });

describe("profile()", () => {
  it("times every launch, with its label, variant, FLOPs and bytes", async () => {
    using x = F.randn([256, 256]);
    program(x);
    const counts = tally(() => program(x));
    const result = await profile(() => program(x));
    expect(result.launches).toHaveLength(counts.launches);
    expect(result.launches.reduce((sum, l) => sum + l.flops, 0)).toBe(counts.flops);
    expect(result.launches.reduce((sum, l) => sum + l.bytes, 0)).toBe(counts.bytes);
    for (const l of result.launches) {
      expect(l.ms).toBeGreaterThanOrEqual(0);
      expect(l.ms).toBeLessThan(10_000);
      expect(l.variant.startsWith(l.kernel)).toBe(true);
    }
    expect(result.totalMs).toBeGreaterThan(0);
    expect(result.launches[0]).toMatchObject({ label: "layers.0.mlp", kernel: "map", startMs: 0 });
    const starts = result.launches.map((l) => l.startMs);
    expect(starts).toEqual(starts.toSorted((a, b) => a - b));
  });

  it("sums by kernel and by module, most time first", async () => {
    using x = F.randn([256, 256]);
    const result = await profile(() => program(x));
    const kernels = result.byKernel();
    expect(kernels.map((r) => r.name).toSorted()).toEqual(["map", "map_strided", "reduce"]);
    expect(kernels.map((r) => r.ms)).toEqual(kernels.map((r) => r.ms).toSorted((a, b) => b - a));
    expect(kernels.reduce((sum, r) => sum + r.share, 0)).toBeCloseTo(1, 5);
    expect(kernels.reduce((sum, r) => sum + r.launches, 0)).toBe(result.launches.length);
    const map = kernels.find((r) => r.name === "map")!;
    expect(map.gbytesPerSecond).toBeCloseTo((3 * 2 * 4 * 65536) / map.ms / 1e6, 3);
    expect(
      result
        .byModule()
        .map((r) => r.name)
        .toSorted(),
    ).toEqual(["(top)", "layers.0", "layers.1"]);
    expect(
      result
        .byModule(1)
        .map((r) => r.name)
        .toSorted(),
    ).toEqual(["(top)", "layers"]);
  });

  it("prints a table whose lines are of one length", async () => {
    using x = F.randn([64, 64]);
    const result = await profile(() => program(x));
    const lines = result.table().split("\n");
    expect(lines[0]).toMatch(/^name +launches +ms +share +GFLOP\/s +GB\/s$/);
    expect(lines).toHaveLength(4);
    expect(new Set(lines.map((l) => l.length)).size).toBe(1);
    expect(result.table(result.byModule())).toContain("layers.0");
  });

  it("writes events that Chrome's viewer reads", async () => {
    using x = F.randn([64, 64]);
    const { traceEvents } = JSON.parse(JSON.stringify((await profile(() => program(x))).chromeTrace())) as {
      traceEvents: Record<string, unknown>[];
    };
    expect(traceEvents.length).toBeGreaterThan(4);
    for (const event of traceEvents) {
      expect(event).toMatchObject({ ph: "X", cat: "gpu", pid: 0, tid: 0 });
      expect(event["ts"]).toBeGreaterThanOrEqual(0);
      expect(event["dur"]).toBeGreaterThanOrEqual(0);
      expect(event["args"]).toHaveProperty("label");
    }
  });

  it("waits for an asynchronous function, holds many launches, and covers backward by module", async () => {
    using x = F.randn([16, 16], { requiresGrad: true });
    const result = await profile(async () => {
      for (let i = 0; i < 120; i++) scope(() => withLabel("net", () => x.square().sum()).backward());
      await device().sync();
      scope(() => void x.exp());
    });
    expect(result.launches.length).toBeGreaterThan(360);
    expect(result.byKernel().reduce((sum, r) => sum + r.launches, 0)).toBe(result.launches.length);
    expect(result.byModule().some((r) => r.name.startsWith("backward"))).toBe(true);
  });

  it("computes the same, and is gone afterwards", async () => {
    using x = F.randn([64, 64]);
    const y = scope(() => x.exp().sum());
    let z: Tensor | undefined;
    await profile(() => void (z = scope(() => x.exp().sum())));
    expect(await z!.item()).toBe(await y.item());
    expect(device().queue.isTiming).toBe(false);
    y.dispose();
    z!.dispose();
  });

  it("ends when the function throws, and refuses a second profile inside", async () => {
    expect(
      await errorOf(() =>
        profile(() => {
          throw new Error("on purpose");
        }),
      ),
    ).toMatchObject({ message: "on purpose" });
    expect(device().queue.isTiming).toBe(false);
    let inner: Error | undefined;
    await profile(async () => void (inner = await errorOf(() => profile(() => undefined))));
    expect(inner).toBeInstanceOf(DeviceError);
    expect(inner!.message).toMatch(/must not be called inside profile\(\)/);
  });

  it("of nothing is empty", async () => {
    const result = await profile(() => undefined);
    expect([result.totalMs, result.byKernel(), result.launches]).toEqual([0, [], []]);
    expect(result.table()).toContain("name");
  });

  it("needs timestamps", async () => {
    const plain = await Device.create({ without: ["timestamp-query"] });
    const error = await errorOf(() => profile(() => undefined, plain));
    expect(error.message).toMatch(
      /must have timestamps \(feature timestamp-query\).*Measure wall time around sync\(\)/,
    );
    plain.destroy();
  });
});
