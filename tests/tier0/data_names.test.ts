/** The words that name samples, against Node's SHA-256: lengths around its blocks of 64 bytes, and characters of several bytes. */
import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { nameWords } from "../../train/data/names.ts";

it("are the first 64 bits of SHA-256, low byte first", () => {
  const names = [0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000].map((length) =>
    "ab€c".repeat(length).slice(0, length),
  );
  for (const name of [...names, "drop 7f3a:12", "émile 🙂"]) {
    const digest = createHash("sha256").update(name).digest();
    expect(nameWords(name), JSON.stringify(name)).toEqual([digest.readUInt32LE(0), digest.readUInt32LE(4)]);
  }
});
