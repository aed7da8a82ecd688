/** The buffer pool by itself: size classes, order of reuse, budget, private lists. */
import { describe, expect, it } from "vitest";
import { OutOfMemoryError } from "../../index.ts";
import { BufferPool, sizeClass } from "../../engine/pool.ts";
import type { PoolBuffer } from "../../engine/pool.ts";

function pool(budget = Infinity, most = Infinity): { pool: BufferPool; created: number[]; destroyed: PoolBuffer[] } {
  const created: number[] = [];
  const destroyed: PoolBuffer[] = [];
  const backend = {
    create: (size: number): null => {
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
    for (const order of [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 5, 0, 4, 1, 3]]) {
      for (const i of order) p.release(all[i]!, 1000, "x");
      expect(all.map(() => p.acquire(900, "x"))).toEqual(all);
    }
    expect(created).toEqual(Array(6).fill(1024));
  });
  it("never hands out a buffer that is in use, or one of another class", () => {
    const { pool: p } = pool();
    const held = new Set<PoolBuffer>();
    const random = ((state) => () => (state = (state * 16807) % 2147483647) / 2147483647)(7);
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
    expect(p.stats).toEqual({ liveBytes: 3000, liveCount: 1, peakBytes: 4000, reservedBytes: 1024 + sizeClass(3000), created: 2 });
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
    expect(() => p.acquire(8192, "logits")).toThrow(/logits: 8\.0 KiB asked for, 4\.0 KiB of the budget of 9\.8 KiB in use.*\n.*4\.0 KiB +1 × weights/);
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
    expect(() => p.acquire((1 << 20) + 1, "embedding")).toThrow(/embedding: 1\.0 MiB asked for in one buffer, the device allows 1\.0 MiB; split/);
    expect(created).toEqual([]);
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
