/** Out-of-range ids on a device with checks: an error at the next synchronisation; and what happens without. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArgumentError, Device, F, backward, capture, checkpoint, scope, setDevice, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { errorOf, useDevice } from "../gpu.ts";

const device = useDevice();
const ids = (values: readonly number[], shape = [values.length]): Tensor => tensor(Int32Array.from(values), { shape });

const weights = (values: readonly number[], shape = [values.length]): Tensor =>
  tensor(Float32Array.from(values), { shape });

/** The op, the input, what is allowed, what comes, and the call. */
const ROWS: readonly (readonly [op: string, input: string, allowed: string, got: string, call: () => unknown])[] = [
  ["embedding", "ids", "from 0 to 3", "got 4 at position 2", () => F.embedding(F.ones([4, 2]), ids([0, 3, 4, 9]))],
  ["embedding", "ids", "from 0 to 3", "got -1 at position 1", () => F.embedding(F.ones([4, 2]), ids([0, -1]))],
  ["embedding", "ids", "empty", "got 0", () => F.embedding(F.ones([0, 2]), ids([0]))],
  ["indexSelect", "index", "from 0 to 2", "got 3", () => F.indexSelect(F.ones([4, 3]), 1, ids([2, 3]))],
  ["gather", "index", "from 0 to 1", "got 2 at position 3", () => F.gather(F.ones([2, 2]), 0, ids([0, 1, 1, 2], [2, 2]))],
  ["scatter", "index", "from 0 to 1", "got -2", () => F.scatter(F.ones([2]), 0, ids([-2]), 1)],
  ["scatterAdd", "index", "from 0 to 1", "got 7", () => F.scatterAdd(F.ones([2]), 0, ids([7]), F.ones([1]))],
  ["crossEntropy", "targets", "from 0 to 2 or -100", "got 3 at position 2", () => F.crossEntropy(F.ones([3, 3]), ids([-100, 2, 3]))],
  ["linearCrossEntropy", "targets", "from 0 to 4 or 9", "got -100", () => F.linearCrossEntropy(F.ones([2, 3]), F.ones([5, 3]), ids([9, -100]), { ignoreIndex: 9 })],
  ["quantize", "indices", "from 0 to 3", "got 4", () => F.quantize(F.ones([1, 2]), F.ones([4, 2]), ids([4]))],
  ["multinomial", "weights", "finite and not negative", "got -1 at position 4", () => F.multinomial(weights([1, 0, 2, 3, -1, -2], [2, 3]), 1)],
  ["multinomial", "weights", "finite and not negative", "got NaN at position 1", () => F.multinomial(weights([1, NaN]), 1, { replacement: true })],
  ["multinomial", "weights", "finite and not negative", "got Infinity at position 0", () => F.multinomial(weights([Infinity, 1]), 1)],
  ["multinomial", "weights", "above 0 at 1 or more places of a row", "got 1 too few in row 1", () => F.multinomial(weights([1, 0, 0, -0], [2, 2]), 1, { replacement: true })],
  ["multinomial", "weights", "above 0 at 2 or more places of a row", "got 1 too few in row 0", () => F.multinomial(weights([0, 3, 0]), 2)],
  ["cacheWrite", "length", "from 0 to 2", "got 3", () => {
    const [keys, values, k] = [F.zeros([1, 1, 4, 4]), F.zeros([1, 1, 4, 4]), F.ones([1, 1, 2, 4])];
    F.cacheWrite(keys, values, k, k, tensor(Uint32Array.of(3)));
  }],
]; // prettier-ignore

describe("a device with checks", () => {
  it.each(ROWS)("%s: %s must be %s; %s", async (op, input, allowed, got, call) => {
    scope(() => void call());
    const error = await errorOf(() => device().sync());
    expect(error).toBeInstanceOf(ArgumentError);
    expect(error.message).toContain(`${op}: ${input} must be ${allowed}`);
    expect(error.message).toContain(got);
    // It is said once, and the device computes on.
    await device().sync();
    using y = scope(() => F.add(F.ones([2]), 1));
    expect([...(await y.data())]).toEqual([2, 2]);
  });

  it("throws at a read-back too, for the first of several, and names ids above 2³¹ as they are", async () => {
    using table = F.ones([4, 2]);
    using wrong = tensor(Uint32Array.of(1, 2 ** 32 - 2));
    using y = F.embedding(table, wrong);
    using z = scope(() => F.gather(table, 0, ids([5, 5], [1, 2])));
    expect((await errorOf(() => y.data())).message).toMatch(/embedding: .*got 4294967294 at position 1/);
    expect([...(await z.data())]).toEqual([0, 0]);
  });

  it("says nothing of ids in range, of ignored targets, and of ops that pick by themselves", async () => {
    scope(() => {
      const x = F.randn([3, 5]);
      F.embedding(x, ids([0, 2]));
      F.crossEntropy(x, ids([-100, 0, 4]));
      F.scatter(x, 1, ids([0, 4, 2], [3, 1]), 0);
      F.multinomial(weights([0, -0, 1e-40, 3e38]), 1);
      for (const y of [F.flip(x, 0), F.sort(x).values, F.topk(x, 2).values]) void y;
    });
    await device().sync();
  });

  it("recomputes functions of checkpoint() that have ids", async () => {
    using table = F.ones([4, 2], { requiresGrad: true });
    using x = F.ones([2, 2], { requiresGrad: true });
    scope(() => {
      const once = (t: Tensor): Tensor => checkpoint((s) => F.mul(s, F.embedding(table, ids([1, 3]))), t);
      backward(F.sum(once(once(x))));
    });
    expect([...(await table.grad!.data())]).toEqual([0, 0, 2, 2, 0, 0, 2, 2]);
    for (const t of [table, x]) t.grad!.dispose();
  });

  it("checks the launches of a replay", async () => {
    using table = F.ones([4, 2]);
    using at = ids([1, 2]);
    const captured = await capture(() => F.embedding(table, at), { verify: false });
    await device().sync();
    device().write({ storage: at.storage, offset: 0, size: 8 }, new Uint8Array(Int32Array.of(1, 5).buffer));
    captured.replay();
    expect((await errorOf(() => device().sync())).message).toMatch(/embedding: .*got 5 at position 1/);
    captured.result.dispose();
    captured.dispose();
  });
});

describe("a device without", () => {
  let plain: Device;
  beforeAll(async () => {
    plain = await Device.create();
  });
  afterAll(() => plain.destroy());

  it("gives what the ops document, and launches nothing more", async () => {
    setDevice(plain);
    try {
      const before = plain.stats.launches;
      using table = tensor([1, 2], { shape: [2, 1], device: plain });
      using at = tensor(Int32Array.of(0, 2, -1), { device: plain });
      using y = F.embedding(table, at);
      expect(plain.stats.launches - before).toBe(1);
      expect([...(await y.data())]).toEqual([1, 0, 0]);
      await plain.sync();
    } finally {
      setDevice(device());
    }
  });
});
