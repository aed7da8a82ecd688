/** Indexing keeps a record or a member of a file in memory at most, whatever the size of the file: measured in a process of its own. */
import { execFileSync } from "node:child_process";
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { isLong } from "../long.ts";
import { tarHeader } from "../data_files.ts";

const home = mkdtempSync(join(tmpdir(), "janus-memory-"));
afterAll(() => rmSync(home, { recursive: true, force: true }));

const MB = 2 ** 20;
const PART = 4 * MB;

/** Makes a file of about `megabytes`: samples with one image of 4 MB of zeros, which take no room on the disk. */
function tarFile(megabytes: number): string {
  const path = join(home, `${megabytes}.tar`);
  const file = openSync(path, "w");
  let at = 0;
  for (let i = 0; i < megabytes / 4; i++) {
    writeSync(file, tarHeader(`${i}.txt`, 4), 0, 512, at);
    writeSync(file, Buffer.from("a ca"), 0, 4, at + 512);
    writeSync(file, tarHeader(`${i}.png`, PART), 0, 512, at + 1024);
    at += 1536 + PART;
  }
  ftruncateSync(file, at + 1024);
  closeSync(file);
  return path;
}

/** Lines of 4 MB each: an image as a data URL. */
function jsonlFile(megabytes: number): string {
  const path = join(home, `${megabytes}.jsonl`);
  const file = openSync(path, "w");
  const image = "A".repeat(PART - 60);
  for (let i = 0; i < megabytes / 4; i++)
    writeSync(file, `{"prompt": "a cat", "image": "data:image/png;base64,${image}"}\n`);
  closeSync(file);
  return path;
}

/** Most memory of a process that indexes a file, MB. */
function memoryOf(path: string): number {
  const program = `
    import { indexSource } from ${JSON.stringify(new URL("../../train/node/data/index_file.ts", import.meta.url).href)};
    const index = await indexSource({ path: ${JSON.stringify(path)} }, ${JSON.stringify(`${path}.cache`)});
    console.log(JSON.stringify([index.count, process.resourceUsage().maxRSS / 1024]));
    await index.close();`;
  const out = execFileSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", program], {
    encoding: "utf8",
  });
  const [count, megabytes] = JSON.parse(out) as [number, number];
  expect(count).toBeGreaterThan(1);
  return megabytes;
}

it.each([["tar", tarFile], ["JSONL", jsonlFile]] as const)("of %s takes as much memory for 160 MB as for 16 MB", (_, make) => {
  expect(memoryOf(make(160)) - memoryOf(make(16))).toBeLessThan(60);
}); // prettier-ignore

it.runIf(isLong)("of a tar file of 10 GB takes less than 200 MB", () => {
  const megabytes = memoryOf(tarFile(10_240));
  console.log(`${megabytes.toFixed(0)} MB`);
  expect(megabytes).toBeLessThan(200);
});
