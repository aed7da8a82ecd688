/** `janus data preview` and `tokenize` as far as they need a device: codes are computed, kept, and found again. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { EXIT } from "../../cli/errors.ts";
import { runCli } from "../cli.ts";
import { golden, hasFixtures } from "../fixtures.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-data-commands-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
const fixture = (path: string): string =>
  fileURLToPath(new URL(`../../../shared/fixtures/tiny/${path}`, import.meta.url));

describe.skipIf(!hasFixtures)("janus data", () => {
  it("tokenizes a source, resumes where it stopped, and previews its codes", async () => {
    const path = join(temporary, "pairs.jsonl");
    const cache = join(temporary, "cache");
    const write = (images: string[]): void =>
      writeFileSync(path, images.map((image, i) => `${JSON.stringify({ prompt: `picture ${i}`, image })}\n`).join(""));
    const tokenize = async (): Promise<object> => {
      const args = ["data", "tokenize", path, "--model", fixture("hf"), "--cache", cache, "--json"];
      const result = await runCli(args);
      expect(result.code, result.stderr).toBe(EXIT.done);
      return JSON.parse(result.stdout) as object;
    };
    write([0, 1, 2].map((i) => fixture(`image${i}.png`)));
    expect(await tokenize()).toMatchObject({ records: 3, computed: 3, known: 0, bad: 0 });
    write([...[0, 1, 2, 3].map((i) => fixture(`image${i}.png`)), "none.png"]);
    expect(await tokenize()).toMatchObject({ records: 5, computed: 1, known: 3, bad: 1 });
    expect(readFileSync(join(cache, "bad.jsonl"), "utf8")).toContain(`${path}:5: cannot read the image`);
    const result = await runCli(["data", "preview", path, "--model", fixture("hf"), "--cache", cache, "--n", "1"]);
    expect(result.code, result.stderr).toBe(EXIT.done);
    const codes = [...golden("vq.codes").data].slice(0, 4).join(" "); // their margins are wide
    expect(result.stdout).toContain(`picture 0\n\n<|Assistant|>:<begin_of_image>⟦64 codes: ${codes} `);
  });
});
