/** The budget of bad samples and their file. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { ArgumentError } from "../../engine/errors.ts";
import { QuarantineError } from "../../train/data/errors.ts";
import { Quarantine } from "../../train/node/data/quarantine.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-quarantine-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
const sample = (record: number) =>
  ({ task: "und", source: "a.jsonl", record, reason: `a.jsonl:${record + 1}: empty` }) as const;

describe("quarantine", () => {
  it("allows 100, or one in a thousand, by default", () => {
    const quarantine = new Quarantine();
    expect([0, 99_999, 100_000, 100_999, 101_000, 1e6].map((seen) => quarantine.allowed(seen))).toEqual([
      100, 100, 100, 100, 101, 1000,
    ]);
    expect(new Quarantine({ share: 0.5, least: 2 }).allowed(10)).toBe(5);
    expect(new Quarantine({ share: 0, least: 0 }).allowed(10)).toBe(0);
    expect(() => new Quarantine({ share: 2 })).toThrow(ArgumentError);
    expect(() => new Quarantine({ least: -1 })).toThrow(ArgumentError);
  });

  it("ends the run at the first one above the budget and names the last one and the file", async () => {
    const file = join(temporary, "new", "bad.jsonl");
    const quarantine = new Quarantine({ file, least: 2 });
    await quarantine.add(sample(0), 1, 5);
    await quarantine.add(sample(1), 2, 6);
    const error = await quarantine.add(sample(2), 3, 7).catch((e: unknown) => e as Error);
    expect(error).toBeInstanceOf(QuarantineError);
    expect((error as Error).message).toMatch(/3 of 7 records are bad, 2 are allowed.*a\.jsonl:3: empty.*bad\.jsonl/);
    const lines = readFileSync(file, "utf8").trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([0, 1, 2].map(sample));
  });

  it("writes a sample once, also in a run that resumes after a crash", async () => {
    const file = join(temporary, "again.jsonl");
    await new Quarantine({ file }).add(sample(0), 1, 1);
    writeFileSync(file, `${readFileSync(file, "utf8")}{"task":"und","sou`);
    const quarantine = new Quarantine({ file });
    for (const record of [0, 1, 1]) await quarantine.add(sample(record), 1, 1);
    const lines = readFileSync(file, "utf8").trimEnd().split("\n");
    expect([lines[0], lines.at(-1)]).toEqual([0, 1].map((record) => JSON.stringify(sample(record))));
    expect(lines.length).toBe(3);
  });
});
