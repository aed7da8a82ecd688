/** Values that one side pushes and another iterates over, and a bound on how many do something at once. */

/** An endless list in order; iteration ends with `end`, or throws what `fail` gave. */
export class EventQueue<T> implements AsyncIterable<T> {
  private readonly values: T[] = [];
  private ended: { readonly error: Error | null } | null = null;
  private wake: (() => void) | null = null;

  push(value: T): void {
    if (this.ended) return;
    this.values.push(value);
    this.wake?.();
  }

  end(): void {
    this.ended ??= { error: null };
    this.wake?.();
  }

  fail(error: unknown): void {
    this.ended ??= { error: error instanceof Error ? error : new Error(String(error)) };
    this.wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      while (this.values.length) yield this.values.shift()!;
      if (this.ended) {
        if (this.ended.error !== null) throw this.ended.error;
        return;
      }
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }
}

/** At most `count` tasks at once; others wait in order. */
export class Semaphore {
  private readonly waiting: (() => void)[] = [];
  private free: number;

  constructor(count: number) {
    this.free = count;
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.free > 0) this.free--;
    else await new Promise<void>((resolve) => this.waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.free++;
    }
  }
}
