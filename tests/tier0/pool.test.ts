/** The buffer pool by itself: size classes, order of reuse, budget, private lists. */
import { describe, expect, it } from "vitest";
import { OutOfMemoryError } from "../../index.ts";
import { BufferPool, sizeClass } from "../../engine/pool.ts";
import type { PoolBuffer } from "../../engine/pool.ts";

function pool(budget = Infinity, most = Infinity): { pool: BufferPool; created: number[]; destroyed: PoolBuffer[] } {
  const created: number[] = [];
  const destroyed: PoolBuffer[] = [];
  const backend = {
    create: ({ size }: PoolBuffer): null => {
      created.push(size);
      return null;
    },
    destroy: (buffer: PoolBuffer): void => void destroyed.push(buffer),
  };
  return { pool: new BufferPool(backend, budget, most), created, destroyed };
}

describe("size classes", () => {
  const sizes = [1, 16, 255, 256, 257, 2048, 2049, 4096, 5000, 65536, 65537, 1e6, 2 ** 27, 2 ** 27 + 1, 4e9];
  it.each(sizes)("%d bytes", (bytes) => {
    const size = sizeClass(bytes);
    expect(size).toBeGreaterThanOrEqual(bytes);
    expect(size % 256).toBe(0);
    expect(size - bytes).toBeLessThan(Math.max(256, bytes / 8 + 1));
    expect(sizeClass(size), "a class is of its own class").toBe(size);
  });
  it("grow with the size and are few", () => {
    const classes = new Set<number>();
    let last = 0;
    for (let bytes = 1; bytes < 2 ** 20; bytes += 97) {
      const size = sizeClass(bytes);
      expect(size).toBeGreaterThanOrEqual(last);
      classes.add((last = size));
    }
    expect(classes.size).toBeLessThan(100);
  });
});

describe("reuse", () => {
  it("hands out the free buffer of the class with the lowest number, whatever the order of freeing", () => {
    const { pool: p, created } = pool();
    const all = Array.from({ length: 6 }, () => p.acquire(1000, "x"));
    for (const order of [
      [0, 1, 2, 3, 4, 5],
      [5, 4, 3, 2, 1, 0],
      [2, 5, 0, 4, 1, 3],
    ]) {
      for (const i of order) p.release(all[i]!, 1000, "x");
      expect(all.map(() => p.acquire(900, "x"))).toEqual(all);
    }
    expect(created).toEqual(Array(6).fill(1024));
  });
  it("never hands out a buffer that is in use, or one of another class", () => {
    const { pool: p } = pool();
    const held = new Set<PoolBuffer>();
    const random = (
      (state) => () =>
        (state = (state * 16807) % 2147483647) / 2147483647
    )(7);
    for (let i = 0; i < 5000; i++) {
      if (held.size && random() < 0.5) {
        const [buffer] = held;
        held.delete(buffer!);
        p.release(buffer!, buffer!.size, "x");
      } else {
        const bytes = Math.ceil(random() * 5000);
        const buffer = p.acquire(bytes, "x");
        expect(held.has(buffer)).toBe(false);
        expect(buffer.size).toBe(sizeClass(bytes));
        held.add(buffer);
        // Counted by its size, so that release and acquire agree.
        p.release(buffer, bytes, "x");
        expect(p.acquire(buffer.size, "x")).toBe(buffer);
      }
    }
    expect(p.stats.liveCount).toBe(held.size);
    expect(p.stats.liveBytes).toBe([...held].reduce((sum, b) => sum + b.size, 0));
  });
});

describe("counting", () => {
  it("knows what is alive, the peak, and what it reserves", () => {
    const { pool: p } = pool();
    const a = p.acquire(1000, "a");
    const b = p.acquire(3000, "b");
    p.release(a, 1000, "a");
    expect(p.stats).toEqual({
      liveBytes: 3000,
      liveCount: 1,
      peakBytes: 4000,
      reservedBytes: 1024 + sizeClass(3000),
      created: 2,
    });
    p.resetPeak();
    expect(p.stats.peakBytes).toBe(3000);
    p.exempt(3000, "b");
    expect(p.stats).toMatchObject({ liveBytes: 0, liveCount: 0 });
    expect(b.size).toBe(3072);
  });
  it("trims the free buffers, not those in use", () => {
    const { pool: p, destroyed } = pool();
    const [a, b] = [p.acquire(1000, "x"), p.acquire(1000, "x")];
    p.release(a, 1000, "x");
    p.trim();
    expect(destroyed).toEqual([a]);
    expect(p.stats.reservedBytes).toBe(b.size);
    expect(p.acquire(1000, "x")).not.toBe(a);
  });
  it("shows what is alive, largest first, and no more than asked", () => {
    const { pool: p } = pool();
    for (let i = 0; i < 20; i++) p.acquire((i + 1) * 1024 * 1024, `thing ${i}`);
    const lines = p.table(3).split("\n");
    expect(lines[0]).toMatch(/^ +20\.0 MiB +1 × thing 19$/);
    expect(lines).toHaveLength(4);
    expect(lines[3]).toContain("17 more");
  });
});

describe("the budget", () => {
  it("refuses before it creates, with a table of what is alive", () => {
    const { pool: p, created } = pool(10_000);
    p.acquire(4096, "weights");
    const buffers = created.length;
    const before = { ...p.stats };
    expect(() => p.acquire(8192, "logits")).toThrow(OutOfMemoryError);
    expect(() => p.acquire(8192, "logits")).toThrow(
      /logits: .* budget of 9\.8 KiB; got a request for 8\.0 KiB with 4\.0 KiB in use.*\n.*4\.0 KiB +1 × weights/,
    );
    expect(created).toHaveLength(buffers);
    expect(p.stats).toEqual(before);
  });
  it("gives free buffers back before it refuses", () => {
    const { pool: p, destroyed } = pool(10_000);
    const a = p.acquire(8192, "a");
    p.release(a, 8192, "a");
    p.acquire(4096, "b");
    expect(destroyed).toEqual([a]);
    expect(p.stats.reservedBytes).toBe(4096);
  });
  it("refuses what no buffer of the device holds, and says so", () => {
    const { pool: p, created } = pool(Infinity, 1 << 20);
    expect(() => p.acquire((1 << 20) + 1, "embedding")).toThrow(
      /embedding: one buffer must have at most 1\.0 MiB, the device's limit; got 1\.0 MiB\. Split/,
    );
    expect(created).toEqual([]);
  });
});

describe("what is held for the recent peak", () => {
  const MiB = 2 ** 20;
  const kept = (peak: number): number => 1.25 * peak + 16 * MiB;
  const randomOf = (seed: number) => (): number => (seed = (seed * 16807) % 2147483647) / 2147483647;
  /** Acquires all of `sizes`, frees them in another order, and returns the buffers. */
  const cycle = (p: BufferPool, sizes: readonly number[]): PoolBuffer[] => {
    const all = sizes.map((bytes) => [p.acquire(bytes, "x"), bytes] as const);
    for (const [buffer, bytes] of all.toReversed()) p.release(buffer, bytes, "x");
    return all.map(([buffer]) => buffer);
  };

  it("stays within the bound however sizes change", () => {
    for (const seed of [1, 2, 3]) {
      const random = randomOf(seed);
      const { pool: p } = pool();
      const used: Set<PoolBuffer>[] = [];
      let peak = 0;
      for (let step = 0; step < 300; step++) {
        const n = 1 + Math.floor(random() * 12);
        const total = 200 + 150 * random(); // above half of the peak: each is a cycle
        used.push(new Set(cycle(p, Array(Math.ceil(total / n)).fill(n * MiB))));
        const recent = new Set(used.slice(-5).flatMap((set) => [...set]));
        peak = Math.max(peak, Math.ceil(total / n) * n * MiB);
        const bytes = [...recent].reduce((sum, b) => sum + b.size, 0);
        expect(p.stats.reservedBytes, `seed ${seed}, step ${step}`).toBeLessThanOrEqual(Math.max(kept(peak), bytes));
      }
    }
  });

  it("is under twice the peak for a batch of changing size", () => {
    const random = randomOf(7);
    const { pool: p } = pool();
    for (let step = 0; step < 100; step++) {
      const n = 1 + Math.floor(random() * 8);
      cycle(
        p,
        Array.from({ length: 25 }, () => n * MiB),
      );
      if (step > 20) expect(p.stats.reservedBytes).toBeLessThan(2 * p.stats.peakBytes);
    }
    expect(p.stats.peakBytes).toBe(200 * MiB);
  });

  it.each([1, 2, 3, 4])("a loop of %d different cycles creates nothing after it has run a few times", (period) => {
    for (const seed of [11, 12, 13, 14]) {
      const random = randomOf(seed);
      const { pool: p, destroyed } = pool();
      // Sizes of different cycles are a factor of three apart: no cycle can take the buffers of another.
      const cycles = Array.from({ length: period }, (_, c) =>
        Array.from({ length: 3 ** (4 - c) }, () => Math.ceil(3 ** c * (1 + random() / 3) * MiB)),
      );
      const total = cycles.flat().reduce((a, b) => a + b, 0);
      const largest = Math.max(...cycles.map((sizes) => sizes.reduce((a, b) => a + b, 0)));
      for (let i = 0; i < 8; i++) for (const sizes of cycles) cycle(p, sizes);
      const before = { created: p.stats.created, destroyed: destroyed.length };
      for (let i = 0; i < 30; i++) for (const sizes of cycles) cycle(p, sizes);
      expect({ created: p.stats.created, destroyed: destroyed.length }, `seed ${seed}`).toEqual(before);
      if (period > 1) expect(total, "the loop needs more than the slack").toBeGreaterThan(kept(largest));
    }
  });

  it("forgets a peak that is long ago", () => {
    const { pool: p } = pool();
    cycle(p, Array(50).fill(8 * MiB));
    expect(p.stats.reservedBytes).toBe(400 * MiB);
    for (let i = 0; i < 40; i++) cycle(p, Array(10).fill(22 * MiB)); // 16 to 32 cycles later
    expect(p.stats.reservedBytes).toBeLessThanOrEqual(kept(220 * MiB));
    for (let i = 0; i < 4000; i++) cycle(p, Array(10).fill(3 * MiB)); // below half: 16,384 buffers acquired make a cycle
    expect(p.stats.reservedBytes).toBeLessThanOrEqual(kept(30 * MiB));
  });

  it("forgets it also where bytes in use never come near it again, as in decoding behind a large prompt", () => {
    const { pool: p } = pool();
    for (let i = 0; i < 20; i++) p.acquire(8 * MiB, "weights");
    cycle(p, Array(50).fill(8 * MiB));
    expect(p.stats.reservedBytes).toBe(560 * MiB);
    for (let i = 0; i < 30_000; i++) cycle(p, [MiB, MiB, 2 * MiB, 5 * MiB]);
    expect(p.stats.reservedBytes).toBeLessThanOrEqual(kept(169 * MiB));
    const { created } = p.stats;
    for (let i = 0; i < 30_000; i++) cycle(p, [MiB, MiB, 2 * MiB, 5 * MiB]);
    expect(p.stats.created).toBe(created);
  });

  it("never takes what is in use or a capture's", () => {
    const { pool: p, destroyed } = pool();
    const held = p.acquire(100 * MiB, "weights");
    const lists = p.beginPrivate();
    const own = cycle(p, Array(10).fill(30 * MiB));
    p.endPrivate();
    for (let i = 0; i < 100; i++) cycle(p, Array(10).fill(((i % 30) + 1) * MiB));
    p.trim();
    expect(destroyed.length).toBeGreaterThan(0);
    for (const buffer of [held, ...own]) expect(destroyed).not.toContain(buffer);
    expect(p.stats.reservedBytes).toBe(held.size + 300 * MiB);
    p.adopt(lists);
    p.trim();
    expect(p.stats.reservedBytes).toBe(held.size);
  });
});

describe("private lists", () => {
  it("keep a capture's buffers to itself until they are adopted", () => {
    const { pool: p } = pool();
    const shared = p.acquire(1000, "x");
    p.release(shared, 1000, "x");
    const other = p.acquire(1000, "x");
    p.release(other, 1000, "x");
    expect(other).toBe(shared);
    const lists = p.beginPrivate();
    // A free buffer of the shared lists may be taken over for good, which keeps captures from piling up buffers.
    const own = p.acquire(1000, "x");
    expect(own).toBe(shared);
    p.release(own, 1000, "x");
    expect(p.acquire(1000, "x")).toBe(own);
    p.release(own, 1000, "x");
    p.endPrivate();
    const eager = p.acquire(1000, "x");
    expect(eager).not.toBe(own);
    p.adopt(lists);
    expect(p.acquire(1000, "x")).toBe(own);
    expect(lists.size).toBe(0);
  });
});
