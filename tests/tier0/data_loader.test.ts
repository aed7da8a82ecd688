/** The loader: the same samples whatever finishes first, full quotas with bad samples inside, and a state that is enough for resuming. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { ArgumentError } from "../../engine/errors.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { ImageError } from "../../model/image/image.ts";
import { folderSource } from "../../model/node/files.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import { RecordEncoder } from "../../train/node/data/encode.ts";
import { LoaderStateError, QuarantineError, RecordError, SourceError } from "../../train/data/errors.ts";
import { indexSource } from "../../train/node/data/index_file.ts";
import { Loader } from "../../train/node/data/loader.ts";
import type { LoaderOptions, LoaderSource, LoaderState } from "../../train/node/data/loader.ts";
import type { SampleEncoder } from "../../train/data/encode.ts";
import { stepCounts } from "../../train/node/data/mixture.ts";
import { Quarantine } from "../../train/node/data/quarantine.ts";
import { TASKS, imageSample, textSample } from "../../train/samples.ts";
import type { Task } from "../../train/samples.ts";
import { hasFixtures } from "../fixtures.ts";
import { ranksHere } from "../ranks_here.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-loader-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

/** A source in memory: record i is the text "name i"; some records are bad. */
function source(task: Task, name: string, count: number, isBad: (i: number) => boolean = () => false): LoaderSource {
  return {
    spec: { path: name },
    task,
    hash: name,
    count,
    nameOf: async (i) => `${name}:${i + 1}`,
    read: async (i) => {
      if (isBad(i)) throw new RecordError(name, i + 1, "it is bad");
      const text = `${name} ${i}`;
      return task === "gen" ? { task, prompt: text, image: "x" } : { task: "text", text };
    },
  };
}

/** Takes a different time for each sample, and counts how many are under way. */
class SlowEncoder implements SampleEncoder {
  most = 0;
  begun = 0;
  private now = 0;
  private readonly bad: (id: string) => boolean;
  constructor(bad: (id: string) => boolean = () => false) {
    this.bad = bad;
  }
  async encode(...[raw, { id, epoch }]: Parameters<SampleEncoder["encode"]>): ReturnType<SampleEncoder["encode"]> {
    this.begun++;
    this.most = Math.max(this.most, ++this.now);
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 4));
    this.now--;
    if (this.bad(id)) throw new ImageError(`${id} is damaged`);
    const name = `${id}@${epoch}`;
    return raw.task === "gen"
      ? imageSample([1, 2], [1], null, name)
      : textSample(id.startsWith("und") ? "und" : "text", [1, 2], [-100, 2], [], -1, name);
  }
}

const options: LoaderOptions = { seed: 5, batch: 8, ratios: { und: 2, text: 1, gen: 4 }, ahead: 8 };
const badRecord = (i: number): boolean => i % 11 === 3;
const sources = () => ({
  und: [source("und", "und-a", 13, badRecord), source("und", "und-b", 20)],
  text: [source("text", "text-a", 17, badRecord)],
  gen: [source("gen", "gen-a", 50, badRecord), source("gen", "gen-b", 31)],
});
const badImage = (id: string): boolean => /^gen-b:(4|17)$/.test(id);

interface Got {
  readonly names: string[][];
  readonly states: LoaderState[];
}
async function run(steps: number, changed: Partial<LoaderOptions> = {}, state?: LoaderState): Promise<Got> {
  const loader = new Loader(sources(), new SlowEncoder(badImage), { ...options, ...changed }, state);
  const got: Got = { names: [], states: [] };
  for (let i = 0; i < steps; i++) {
    const { step, samples, state: after } = await loader.next();
    expect(step).toBe((state?.step ?? 0) + i);
    got.names.push(samples.map(({ task, name }) => `${task} ${name}`));
    got.states.push(after);
  }
  await loader.dispose();
  return got;
}

describe("loader", () => {
  it("gives 40 steps as 20 and another 20 from the state, with bad samples inside", async () => {
    const whole = await run(40);
    const first = await run(20);
    const state = JSON.parse(JSON.stringify(first.states.at(-1))) as LoaderState;
    const second = await run(20, {}, state);
    expect([...first.names, ...second.names]).toEqual(whole.names);
    expect([...first.states, ...second.states]).toEqual(whole.states);
    expect(state.skipped).toBeGreaterThan(5);
    expect(whole.states.at(-1)!.skipped).toBeGreaterThan(state.skipped);
  });

  it("gives the same samples whatever is decoded ahead", async () => {
    const [none, some, many] = [
      await run(12, { ahead: 0 }),
      await run(12, { ahead: 8 }),
      await run(12, { ahead: 100 }),
    ];
    expect(some).toEqual(none);
    expect(many).toEqual(none);
  });

  it.each([2, 3])("%i ranks decode their own samples, and set aside what one process does", async (size) => {
    const whole = await run(12);
    const begun: number[] = [];
    const shares = await Promise.all(
      ranksHere(size).map(async (ranks) => {
        const encoder = new SlowEncoder(badImage);
        const other = (task: Task, name: string) => textSample("text", [1], [1], [], -1, `elsewhere ${task} ${name}`);
        const loader = new Loader(sources(), encoder, { ...options, share: { ranks, other } });
        const steps = [];
        for (let i = 0; i < 12; i++) steps.push(await loader.next());
        await loader.dispose();
        begun.push(encoder.begun);
        return steps;
      }),
    );
    for (const [step, names] of whole.names.entries()) {
      expect(names.map((_, i) => shares[i % size]![step]!.samples[i]!).map(({ task, name }) => `${task} ${name}`)).toEqual(names); // prettier-ignore
      expect(shares[0]![step]!.samples[1]!.name).toMatch(/^elsewhere (und|text|gen) \S+:\d+$/);
      for (const share of shares) expect(share[step]!.state).toEqual(whole.states[step]);
    }
    expect(Math.max(...begun)).toBeLessThan((1.4 / size) * 13 * 8);
  });

  it("ranks end together if no record of a task is good", async () => {
    const none = { ...sources(), text: [source("text", "text-a", 17, () => true)] };
    const ended = await Promise.allSettled(
      ranksHere(2).map(async (ranks) => {
        const loader = new Loader(none, new SlowEncoder(), { ...options, share: { ranks, other: () => imageSample([1, 2], [1]) } }); // prettier-ignore
        for (let i = 0; i < 20; i++) await loader.next();
      }),
    );
    for (const each of ended) expect(String((each as PromiseRejectedResult).reason)).toMatch(/none of the 17 records of text can be used/); // prettier-ignore
  });

  it("ranks end at the budget of bad samples, and read no further", async () => {
    let reads = 0;
    const bad = source("text", "text-a", 1000, () => true);
    const counted = { ...sources(), text: [{ ...bad, read: (i: number) => (reads++, bad.read(i)) }] };
    const ended = await Promise.allSettled(
      ranksHere(2).map(async (ranks) => {
        const share = { ranks, other: () => imageSample([1, 2], [1]) };
        const loader = new Loader(counted, new SlowEncoder(), { ...options, share, quarantine: new Quarantine({ share: 0, least: 3 }) }); // prettier-ignore
        for (let i = 0; i < 20; i++) await loader.next();
      }),
    );
    for (const each of ended) expect((each as PromiseRejectedResult).reason).toBeInstanceOf(QuarantineError);
    expect(reads).toBeLessThan(20);
  });

  it("keeps the quotas of every step", async () => {
    const { names } = await run(30);
    for (const [step, samples] of names.entries()) {
      const counts = stepCounts(options, step);
      for (const task of TASKS) expect(samples.filter((name) => name.startsWith(`${task} `)).length).toBe(counts[task]);
    }
  });

  it("has each good sample once an epoch, in another order each time", async () => {
    const count = 23;
    const loader = new Loader(
      { text: [source("text", "a", 16, (i) => i === 5), source("text", "b", 7)] },
      new SlowEncoder(),
      { seed: 1, batch: count - 1, ratios: { und: 0, text: 1, gen: 0 }, ahead: 4 },
    );
    const epochs: string[][] = [];
    for (let epoch = 0; epoch < 3; epoch++) epochs.push((await loader.next()).samples.map(({ name }) => name));
    expect(loader.state).toMatchObject({ cursors: { und: 0, text: 3 * count, gen: 0 }, skipped: 3, step: 3 });
    expect(loader.epochSize("text")).toBe(count);
    await loader.dispose();
    const ids = (names: string[]): string[] => names.map((name) => name.split("@")[0]!);
    for (const [epoch, names] of epochs.entries()) {
      expect(new Set(names.map((name) => name.split("@")[1]))).toEqual(new Set([String(epoch)]));
      expect(ids(names).sort()).toEqual(ids(epochs[0]!).sort());
      expect(new Set(ids(names)).size).toBe(count - 1);
    }
    expect(ids(epochs[1]!)).not.toEqual(ids(epochs[0]!));
  });

  it("decodes ahead, at the same time, and within bounds", async () => {
    const measure = async (ahead: number): Promise<[number, number]> => {
      const encoder = new SlowEncoder(badImage);
      const loader = new Loader(sources(), encoder, { ...options, ahead });
      const { samples } = await loader.next();
      await loader.dispose();
      expect(samples.length).toBe(8);
      return [encoder.most, encoder.begun];
    };
    const [none, some] = [await measure(0), await measure(14)];
    expect(none[0]).toBe(1);
    expect(none[1]).toBeLessThan(12);
    expect(some[0]).toBeGreaterThan(6);
    expect(some[0]).toBeLessThanOrEqual(14 + 3);
  });

  it("says how long it waited", async () => {
    const loader = new Loader(sources(), new SlowEncoder(), { ...options, ahead: 0 });
    await loader.next();
    const first = loader.waitingMs;
    expect(first).toBeGreaterThan(2);
    await loader.next();
    expect(loader.waitingMs).toBeGreaterThan(first);
    await loader.dispose();
  });

  it("ends at the budget of bad samples, and stays at its end", async () => {
    const loader = new Loader(sources(), new SlowEncoder(badImage), {
      ...options,
      quarantine: new Quarantine({ share: 0, least: 3 }),
    });
    const all = async (): Promise<void> => {
      for (let i = 0; i < 40; i++) await loader.next();
    };
    await expect(all()).rejects.toThrow(QuarantineError);
    expect(loader.state.skipped).toBe(4);
    await expect(loader.next()).rejects.toThrow(QuarantineError);
    await loader.dispose();
  });

  it("ends after one pass if every record of a task is bad", async () => {
    let reads = 0;
    const all = source("text", "a", 3, () => true);
    const loader = new Loader(
      { text: [{ ...all, read: (i) => (reads++, all.read(i)) }] },
      new SlowEncoder(),
      { ...options, ahead: 0, ratios: { und: 0, text: 1, gen: 0 } },
    ); // prettier-ignore
    await expect(loader.next()).rejects.toThrow(
      /none of the 3 records of text can be used\. The last one: .*Correct the data/,
    );
    await expect(loader.next()).rejects.toThrow(SourceError);
    expect(reads).toBe(3);
    await loader.dispose();
  });

  it("counts a bad record once in all epochs, resumed or not, and each bad record of a larger source", async () => {
    const load = async (steps: number, least: number, state?: LoaderState, bad = 1): Promise<LoaderState> => {
      const quarantine = new Quarantine({ share: 0, least });
      const given = { seed: 3, batch: 20, ratios: { und: 0, text: 1, gen: 0 }, ahead: 3, quarantine };
      const loader = new Loader({ text: [source("text", "a", 20, (i) => i < bad)] }, new SlowEncoder(), given, state);
      try {
        for (let i = 0; i < steps; i++) await loader.next();
        return JSON.parse(JSON.stringify(loader.state)) as LoaderState;
      } finally {
        await loader.dispose();
      }
    };
    const first = await load(10, 1);
    expect(first).toMatchObject({ bad: { und: "", text: "0", gen: "" } });
    expect(await load(10, 1, first)).toEqual(await load(20, 1));
    await expect(load(3, 1, undefined, 2)).rejects.toThrow(/2 of \d+ records are bad, 1 are allowed/);
    // A state of an earlier version has no list: its records are counted when they come.
    const { bad: _bad, ...earlier } = first;
    await expect(load(10, 1, earlier)).resolves.toMatchObject({ bad: { text: "0" } });
  });

  it("stops while bad samples come, and finishes a step that has good ones", async () => {
    const controller = new AbortController();
    const many = source("text", "a", 1e6, () => true);
    const loader = new Loader(
      { text: [{ ...many, read: (i) => (controller.abort(new Error("stopped")), many.read(i)) }] },
      new SlowEncoder(),
      { ...options, ahead: 0, ratios: { und: 0, text: 1, gen: 0 }, quarantine: new Quarantine({ share: 1 }) },
    ); // prettier-ignore
    await expect(loader.next(controller.signal)).rejects.toThrow("stopped");
    await loader.dispose();
    const good = new Loader({ text: [source("text", "a", 9)] }, new SlowEncoder(), { ...options, ahead: 0, ratios: { und: 0, text: 1, gen: 0 } }); // prettier-ignore
    expect((await good.next(controller.signal)).samples.length).toBe(options.batch);
    await good.dispose();
  });

  it("passes on what is not the sample's fault", async () => {
    const encoder: SampleEncoder = { encode: () => Promise.reject(new Error("the device is lost")) };
    const loader = new Loader(sources(), encoder, options);
    await expect(loader.next()).rejects.toThrow("the device is lost");
    await loader.dispose();
  });

  it("refuses states of other data, and what cannot be loaded", async () => {
    const { states } = await run(2);
    const state = states[1]!;
    const make = (changed: Partial<LoaderOptions>, given: LoaderState, from = sources()): Loader =>
      new Loader(from, new SlowEncoder(), { ...options, ...changed }, given);
    expect(() => make({ seed: 6 }, state)).toThrow(LoaderStateError);
    expect(() => make({ batch: 9 }, state)).toThrow(LoaderStateError);
    expect(() => make({ ratios: { und: 1, text: 1, gen: 4 } }, state)).toThrow(LoaderStateError);
    expect(() => make({}, state, { ...sources(), text: [source("text", "other", 17)] })).toThrow(/of other data/);
    expect(() => make({}, { ...state, step: -1 })).toThrow(
      /has version 2 or is damaged; this release reads versions 1 and 2/,
    );
    expect(() => make({}, { ...state, version: 3 } as unknown as LoaderState)).toThrow(LoaderStateError);
    expect(() => make({}, {} as LoaderState)).toThrow(LoaderStateError);
    expect(() => make({ ahead: 0 }, state)).not.toThrow();
    expect(() => new Loader({}, new SlowEncoder(), options)).toThrow(SourceError);
    expect(() => new Loader({ ...sources(), und: sources().text }, new SlowEncoder(), options)).toThrow(
      /text-a is a source for text, listed under und/,
    );
    expect(() => make({ ahead: -1 }, state)).toThrow(ArgumentError);
  });

  it("says which part of the data differs", async () => {
    const state = (await run(1)).states[0]!;
    const message = (changed: Partial<LoaderOptions>, from = sources()): string => {
      try {
        new Loader(from, new SlowEncoder(), { ...options, ...changed }, state);
      } catch (error) {
        return (error as Error).message;
      }
      return "";
    };
    expect(message({ seed: 6, batch: options.batch + 1 })).toMatch(
      /of other data: seed was 5 and is 6; batch was \d+ and is \d+\. Restore/,
    );
    expect(message({ ratios: { und: 1, text: 1, gen: 4 } })).toMatch(/the ratio of \w+ was \d+ and is \d+/);
    expect(message({}, { ...sources(), text: [source("text", "other", 17)] })).toContain(
      "other has other content: 17 records were indexed, now 17",
    );
    expect(message({}, { ...sources(), gen: [...sources().gen].reverse() })).toContain(
      "the sources of gen are in another order",
    );
    const { of: _of, ...earlier } = state;
    expect(() => new Loader(sources(), new SlowEncoder(), { ...options, seed: 6 }, earlier)).toThrow(
      /of other data: sources, seed, batch or ratios are not/,
    );
  });

  it("resumes a state of version 1 by the orders that it was begun with, and keeps that version", async () => {
    // Saved by a release before version 2, with the samples that it gave next.
    const saved: LoaderState = {
      version: 1,
      step: 2,
      cursors: { und: 0, text: 6, gen: 6 },
      skipped: 0,
      data: "feae935b4dcbc09a2f204b6f721a0f565b6866aca8f1fe5419301c4780f83ef6",
    };
    const next = ["t:0 t:2 g:4 g:14 t:4 g:10", "g:9 t:1 t:3 g:5 g:2 t:0", "t:4 t:2 g:7 g:13 t:1 g:8"];
    const load = async (steps: number, state?: LoaderState): Promise<[string[], LoaderState]> => {
      const few = { text: [source("text", "t", 5)], gen: [source("gen", "g", 20)] };
      const given = { seed: 5, batch: 6, ratios: { und: 0, text: 1, gen: 1 }, ahead: 4 };
      const loader = new Loader(few, new SlowEncoder(), given, state);
      const got: string[] = [];
      for (let i = 0; i < steps; i++)
        got.push((await loader.next()).samples.map(({ name }) => name.split("@")[0]).join(" "));
      await loader.dispose();
      return [got, loader.state];
    };
    const [names, after] = await load(3, saved);
    expect(names).toEqual(next);
    expect(after).toMatchObject({ version: 1, step: 5, cursors: { text: 15, gen: 15 } });
    const [first, middle] = await load(1, saved);
    expect([...first, ...(await load(2, middle))[0]]).toEqual(next);

    const [fresh, end] = await load(5);
    expect(end.version).toBe(2);
    expect(fresh.slice(2)).not.toEqual(next);
  });

  it("takes one call of next at a time, and none after dispose", async () => {
    const loader = new Loader(sources(), new SlowEncoder(), options);
    const first = loader.next();
    await expect(loader.next()).rejects.toThrow(/await it first/);
    await first;
    await loader.dispose();
    await expect(loader.next()).rejects.toThrow(/disposed/);
  });
});

const fixtures = fileURLToPath(new URL("../../../shared/fixtures/tiny/", import.meta.url));

describe.skipIf(!hasFixtures)("loader of real files", () => {
  const write = (name: string, records: unknown[]): string => {
    const path = join(temporary, name);
    writeFileSync(path, records.map((r) => `${typeof r === "string" ? r : JSON.stringify(r)}\n`).join(""));
    return path;
  };
  it("sets bad files aside with the reason, and resumes exactly", async () => {
    const picture = (i: number): string => join(fixtures, `image${i % 4}.png`);
    const broken = join(temporary, "broken.png");
    writeFileSync(broken, readFileSync(picture(0)).subarray(0, 3000));
    const talk = (image: string, i: number) => ({
      image,
      conversations: [
        { from: "human", value: `<image>\nWhat is number ${i}?` },
        { from: "gpt", value: `It is ${i}.` },
      ],
    });
    const und = write("und.jsonl", [
      ...Array.from({ length: 9 }, (_, i) => talk(picture(i), i)),
      talk(broken, 9),
      talk(join(temporary, "none.png"), 10),
      '{"image": "half',
    ]);
    const text = write("text.jsonl", [...Array.from({ length: 7 }, (_, i) => ({ text: `Text ${i}` })), { text: " " }]);
    mkdirSync(join(temporary, "classes", "red_circle"), { recursive: true });
    for (let i = 0; i < 6; i++) writeFileSync(join(temporary, "classes", "red_circle", `${i}.png`), String(i));
    const checkpoint = await openCheckpoint(folderSource(`${fixtures}hf`));
    const processor = await readProcessor(folderSource(`${fixtures}hf`), checkpoint.config);
    await checkpoint.close();
    const codes = async (path: string): Promise<number[]> => {
      if (path.endsWith("4.png")) throw new ImageError(`${path} is damaged`);
      return Array.from({ length: 64 }, (_, i) => (i * path.length) % 256);
    };
    const encoder = new RecordEncoder(processor, { seed: 2, codes, drop: 0.3 });
    const cache = join(temporary, "cache");
    const opened = {
      und: [await indexSource({ path: und }, cache)],
      text: [await indexSource({ path: text }, cache)],
      gen: [await indexSource({ path: join(temporary, "classes") }, cache)],
    };
    const file = join(temporary, "bad.jsonl");
    const load = async (steps: number, state?: LoaderState): Promise<[unknown[], LoaderState]> => {
      const quarantine = new Quarantine({ file });
      const given = { seed: 2, batch: 5, ratios: { und: 2, text: 1, gen: 2 }, ahead: 6, quarantine };
      const loader = new Loader(opened, encoder, given, state);
      const got: unknown[] = [];
      for (let i = 0; i < steps; i++) got.push((await loader.next()).samples);
      await loader.dispose();
      return [got, loader.state];
    };
    const [whole, end] = await load(12);
    const [first, middle] = await load(5);
    const [second, after] = await load(7, middle);
    expect([...first, ...second]).toEqual(whole);
    expect(after).toEqual(end);
    const lines = readFileSync(file, "utf8").trimEnd().split("\n");
    const reasons = lines.map((line) => (JSON.parse(line) as { reason: string }).reason).sort();
    expect(reasons.length).toBe(5);
    for (const [pattern, place] of [
      [/broken\.png cannot be decoded/, `${und}:10: `],
      [/cannot read the image .*none\.png/, `${und}:11: `],
      [/the line is not JSON/, `${und}:12: `],
      [/text is empty/, `${text}:8: `],
      [/4\.png is damaged/, join(temporary, "classes")],
    ] as const)
      expect(reasons.filter((reason) => pattern.test(reason) && reason.startsWith(place)).length).toBe(1);
    for (const each of Object.values(opened)) for (const index of each) await index.close();
  });
});
