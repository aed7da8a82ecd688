/** The order of answers on rows that only count: turns, choices, cancellation, failures. No device. */
import { describe, expect, it } from "vitest";
import { DeviceLostError, OutOfMemoryError } from "../../index.ts";
import type { Janus } from "../../model/janus/pipeline.ts";
import type { Joining, LiveRow, LiveText } from "../../model/live_text.ts";
import { openMetrics } from "../../serve/metrics.ts";
import { TextService } from "../../serve/text.ts";
import type { TextRequest, TextResult } from "../../serve/text.ts";
import { errorOf } from "../gpu.ts";

/** First id of a prompt that cannot be read. */
const BAD = 13;

/** Rows whose every token is 7; what joins, leaves, is parked and resumed is noted. */
class Rows {
  readonly notes: string[] = [];
  /** Numbers of prompts that were read together. */
  readonly groups: number[] = [];
  readonly readsTogether = true;
  readonly rows: number;
  private readonly used = new Set<LiveRow>();
  private readonly names = new Map<LiveRow, string>();
  failure: Error | null = null;

  constructor(rows: number) {
    this.rows = rows;
  }

  get free(): number {
    return this.rows - this.used.size;
  }

  check(): void {}

  joinAll(joining: readonly Joining[]): unknown {
    if (this.failure || joining.some(({ prompt }) => prompt.ids[0] === BAD)) throw this.failure ?? new Error("bad");
    this.groups.push(joining.length);
    return joining.map(({ prompt: { ids }, options }) => {
      const row: LiveRow = { options, length: ids.length, made: 1 };
      this.used.add(row);
      this.names.set(row, `${ids[0]}.${options.seed}`);
      this.note("join", row);
      return { row, first: Promise.resolve(7) };
    });
  }

  leave(row: LiveRow): void {
    this.used.delete(row);
    this.note("leave", row);
  }

  park(row: LiveRow): void {
    if (this.failure) throw this.failure;
    this.used.delete(row);
    this.note("park", row);
  }

  resume(row: LiveRow): void {
    this.used.add(row);
    this.note("resume", row);
  }

  step(): Promise<unknown> {
    const rows = [...this.used];
    return Promise.resolve({ rows, tokens: Promise.resolve(rows.map(() => 7)) });
  }

  private note(what: string, row: LiveRow): void {
    this.notes.push(`${what} ${this.names.get(row)}`);
  }
}

async function service(
  rows: number,
): Promise<{ live: Rows; text: TextService; ask: typeof submit; run: typeof steps }> {
  const live = new Rows(rows);
  const tokenizer = { stream: () => ({ push: () => "x", flush: () => "" }), specials: { eos: 1, imagePlaceholder: 2 } };
  const janus = { processor: { tokenizer }, device: { check: () => undefined } } as unknown as Janus; // all that is used of it
  const levels = { waiting: 0, rows: 0, parked: 0, drawing: 0, isReady: true, liveBytes: 0, reservedBytes: 0 };
  const text = new TextService(janus, live as unknown as LiveText, await openMetrics(() => levels));
  const submit = (id: number, maxTokens: number, more: Partial<TextRequest> = {}): Promise<TextResult> =>
    text.submit({ ids: [id], pixels: [], seeds: [0], temperature: 0, topP: 1, maxTokens, stop: [], stopIds: [1], signal: new AbortController().signal, onText: () => undefined, ...more }); // prettier-ignore
  const steps = async (count = 1e4): Promise<void> => {
    for (let i = 0; i < count && text.hasWork; i++) await text.step();
  };
  return { live, text, ask: submit, run: steps };
}

describe("answers on a few rows", () => {
  it("a long one lets short ones take a turn, and resumes behind them", async () => {
    const { live, text, ask, run } = await service(1);
    const long = ask(1, 300);
    await run(3);
    const order: number[] = [];
    const short = [2, 3].map((id) => ask(id, 2).then(() => order.push(id)));
    await run();
    expect((await long).choices).toEqual([{ text: "x".repeat(300), finish: "length", tokens: 300 }]);
    await Promise.all(short);
    expect(order).toEqual([2, 3]);
    expect(live.notes).toEqual(["join 1.0", "park 1.0", "join 2.0", "leave 2.0", "join 3.0", "leave 3.0", "resume 1.0", "leave 1.0"]); // prettier-ignore
    expect(text.levels).toEqual({ waiting: 0, rows: 0, parked: 0 });
  });

  it("nobody is parked while rows are free, or if there is no memory for it", async () => {
    const { live, ask, run } = await service(2);
    const first = ask(1, 200);
    await run(100);
    const second = ask(2, 200);
    await run(100);
    live.failure = new OutOfMemoryError("none");
    const third = ask(3, 2);
    const refused = errorOf(() => third);
    await run();
    expect((await first).choices[0]!.tokens).toBe(200);
    expect((await second).choices[0]!.tokens).toBe(200);
    expect(await refused).toBeInstanceOf(OutOfMemoryError);
    expect(live.notes.filter((note) => note.startsWith("park"))).toEqual([]);
  });

  it("the choices of a request do not hold up other requests", async () => {
    const { live, ask, run } = await service(1);
    const many = ask(1, 1, { seeds: [0, 1, 2] });
    const one = ask(2, 1);
    await run();
    expect((await many).choices).toHaveLength(3);
    await one;
    expect(live.notes.filter((note) => note.startsWith("join"))).toEqual(["join 1.0", "join 2.0", "join 1.1", "join 1.2"]); // prettier-ignore
  });

  it("who leaves frees the row before the next token, and one that waits is never asked", async () => {
    const { live, text, ask, run } = await service(1);
    const controllers = [new AbortController(), new AbortController()];
    const [running, waiting] = controllers.map(({ signal }, i) => errorOf(() => ask(i, 100, { signal })));
    await run(5);
    for (const controller of controllers) controller.abort(new Error("left"));
    await run(1);
    expect([(await running!).message, (await waiting!).message]).toEqual(["left", "left"]);
    expect(live.notes).toEqual(["join 0.0", "leave 0.0"]);
    expect(text.hasWork).toBe(false);
  });

  it("prompts that wait are read together, up to 512 tokens with padding", async () => {
    const { live, ask, run } = await service(16);
    const prompts = [[1], [2], [3, ...new Array<number>(169).fill(0)], [4, 4], [5]];
    const answers = prompts.map((ids) => ask(0, 1, { ids }));
    await run(1);
    expect(live.groups).toEqual([3, 1]); // three of 170 tokens leave room for two more
    await run();
    await Promise.all(answers);
    expect(live.groups).toEqual([3, 1, 1]);
    expect(live.notes.filter((note) => note.startsWith("join"))).toEqual(["join 1.0", "join 2.0", "join 3.0", "join 4.0", "join 5.0"]); // prettier-ignore
  });

  it("a prompt that cannot be read ends its own request alone", async () => {
    const { live, ask, run } = await service(4);
    const answers = [1, BAD, 2].map((id) => ask(id, 1));
    const refused = errorOf(() => answers[1]!);
    await run();
    expect((await answers[0]!).choices).toHaveLength(1);
    expect((await answers[2]!).choices).toHaveLength(1);
    expect((await refused).message).toBe("bad");
    expect(live.free).toBe(4);
  });

  it("a lost device fails all", async () => {
    const { live, text, ask, run } = await service(1);
    const errors = [1, 2].map((id) => errorOf(() => ask(id, 100)));
    await run(2);
    text.failAll(new DeviceLostError("gone"));
    for (const error of errors) expect(await error).toBeInstanceOf(DeviceLostError);
    expect([live.free, text.hasWork]).toEqual([1, false]);
  });
});
