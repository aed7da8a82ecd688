/** A curve of any length in bounded memory: the values of neighbours become one bucket as the curve grows. */

/** Values that follow each other. */
interface Bucket {
  count: number;
  /** Sums over the values. */
  x: number;
  y: number;
  low: readonly [x: number, y: number];
  high: readonly [x: number, y: number];
}

export type Point = readonly [x: number, y: number];

/** The most buckets; a curve is drawn by twice as many points. */
const MOST = 500;

/**
 * Takes points in the order of their x, one by one. Up to 500 are kept unchanged; beyond that, neighbours are merged in
 * pairs whenever there are too many. Invalid values (null, NaN, infinite) are left out.
 */
export class Curve {
  private readonly buckets: Bucket[] = [];
  private capacity = 1;

  static of(points: Iterable<readonly [x: number, y: number | null | undefined]>): Curve {
    const curve = new Curve();
    for (const [x, y] of points) curve.add(x, y);
    return curve;
  }

  add(x: number, y: number | null | undefined): void {
    if (!Number.isFinite(y) || !Number.isFinite(x)) return;
    const point = [x, y!] as const;
    const one = { count: 1, x, y: y!, low: point, high: point };
    const last = this.buckets.at(-1);
    if (last && last.count < this.capacity) this.buckets[this.buckets.length - 1] = joined(last, one);
    else this.buckets.push(one);
    if (this.buckets.length <= MOST) return;
    this.capacity *= 2;
    const pairs = this.buckets.splice(0);
    for (let i = 0; i < pairs.length; i += 2)
      this.buckets.push(i + 1 < pairs.length ? joined(pairs[i]!, pairs[i + 1]!) : pairs[i]!);
  }

  get isEmpty(): boolean {
    return this.buckets.length === 0;
  }

  /** The means of the buckets. */
  means(): Point[] {
    return this.buckets.map(({ count, x, y }) => [x / count, y / count]);
  }

  /** Lowest and highest value of each bucket, in their order: what the curve spans, single spikes included. */
  extremes(): Point[] {
    return this.buckets.flatMap(({ low, high }) =>
      low === high ? [low] : low[0] <= high[0] ? [low, high] : [high, low],
    );
  }

  /** The means, each averaged with its neighbours on both sides, over about a fortieth of the curve; the means themselves if it is short. */
  smooth(): Point[] {
    const means = this.means();
    const sums: [x: number, y: number][] = [[0, 0]];
    for (const [i, [x, y]] of means.entries()) sums.push([sums[i]![0] + x, sums[i]![1] + y]);
    const most = Math.floor(means.length / 80);
    return means.map((_, i) => {
      const reach = Math.min(most, i, means.length - 1 - i);
      const [from, to, count] = [sums[i - reach]!, sums[i + reach + 1]!, 2 * reach + 1];
      return [(to[0] - from[0]) / count, (to[1] - from[1]) / count];
    });
  }
}

const joined = (a: Bucket, b: Bucket): Bucket => ({
  count: a.count + b.count,
  x: a.x + b.x,
  y: a.y + b.y,
  low: a.low[1] <= b.low[1] ? a.low : b.low,
  high: a.high[1] >= b.high[1] ? a.high : b.high,
});
