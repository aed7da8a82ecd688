/** The SHA-256 that names samples, against Node's: lengths around its blocks of 64 bytes, and characters of several bytes. */
import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { sha256 } from "../../train/data/sha256.ts";

it("is SHA-256", () => {
  const texts = [0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000].map((length) =>
    "ab€c".repeat(length).slice(0, length),
  );
  for (const text of [...texts, "drop 7f3a:12", "émile 🙂"])
    expect(Buffer.from(sha256(text)).toString("hex"), JSON.stringify(text)).toBe(
      createHash("sha256").update(text).digest("hex"),
    );
});
