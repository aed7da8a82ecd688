/**
 * From a published checkpoint through a training run to an export, in both layouts: what a stage does not train keeps every byte, tensors that the
 * model never reads included, and what nothing has changed passes `janus verify`.
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { addCkpt } from "../../cli/ckpt.ts";
import { addInspect } from "../../cli/inspect.ts";
import { Device } from "../../index.ts";
import { openCheckpoint, sourceOf } from "../../model/janus/checkpoint/checkpoint.ts";
import { folderSource } from "../../model/node/files.ts";
import { checkConfig } from "../../train/config.ts";
import { TRAINED } from "../../train/stages.ts";
import { train } from "../../train/node/train.ts";
import { runCli, runHere } from "../cli.ts";
import { hasFixtures } from "../fixtures.ts";
import { withoutTraining, writeGolden } from "../golden_folder.ts";
import { isLong } from "../long.ts";

const tiny = fileURLToPath(new URL("../../../shared/fixtures/tiny/", import.meta.url));
const home = mkdtempSync(join(tmpdir(), "janus-export-"));
const at = (...names: string[]): string => join(home, ...names);
const LAYOUTS = ["hf", "deepseek"] as const;
let device: Device;

beforeAll(async () => {
  device = await Device.create();
  if (!hasFixtures) return;
  mkdirSync(at("data"));
  const rows = { text: [] as object[], gen: [] as object[] };
  for (const [i, prompt] of ["a red square", "a blue circle"].entries()) {
    cpSync(join(tiny, `image${i}.png`), at("data", `image${i}.png`));
    rows.gen.push({ prompt, image: `image${i}.png` });
    rows.text.push({ text: `This is ${prompt}, and nothing else.` });
  }
  for (const [task, all] of Object.entries(rows))
    writeFileSync(at("data", `${task}.jsonl`), all.map((row) => `${JSON.stringify(row)}\n`).join(""));
});
afterAll(() => {
  device.destroy();
  rmSync(home, { recursive: true, force: true });
});

/** Two steps of stage 1 from the fixture; the run and its exports as bf16 in both layouts: three folders of a model. */
async function trainedAndExported(from: string, run: string, weight: number, dtype = "bf16"): Promise<string[]> {
  const config = checkConfig({
    stage: 1,
    batch: 4,
    length: 200,
    steps: 2,
    ratios: { und: 0, text: 2, gen: 2 },
    weights: { text: weight, gen: weight },
    optimizer: { lr: 1e-2 },
    dtype,
    report: { every: 0 },
  });
  const sources = ["text", "gen"].map((task) => ({ path: at("data", `${task}.jsonl`) }));
  const { checkpoint } = await train({ model: join(tiny, from), run: at(run), config, sources, cache: at("cache"), device, ceiling: 1e9 }); // prettier-ignore
  const folders = [checkpoint];
  for (const layout of LAYOUTS) {
    const out = at(`${run}-${layout}`);
    const exported = await runHere(addCkpt, ["ckpt", "export", at(run), "2", out, "--layout", layout, ...(dtype === "bf16" ? [] : ["--dtype", "bf16"])]); // prettier-ignore
    expect(exported).toMatchObject({ code: 0, stderr: "" });
    expect((await runHere(addInspect, ["inspect", out, "--json"])).stdout).toMatch(new RegExp(`"${layout}"`));
    folders.push(out);
  }
  return folders;
}

/** All tensors of a folder by the name of the parameter, or of what the model never reads, with their bytes. */
async function bytesOf(folder: string): Promise<Map<string, Uint8Array>> {
  const checkpoint = await openCheckpoint(folderSource(folder));
  const tensors = new Map<string, Uint8Array>();
  for (const [name, source] of checkpoint.parameters) tensors.set(name, (await checkpoint.read(source)).slice());
  for (const [name, stored] of checkpoint.unused) tensors.set(name, (await checkpoint.read(sourceOf(stored))).slice());
  await checkpoint.close();
  return tensors;
}

/** Names of what is not in both, or not with the same bytes. Comparing the maps by `toEqual` takes minutes. */
const differing = (a: Map<string, Uint8Array>, b: Map<string, Uint8Array>): string[] =>
  [...new Set([...a.keys(), ...b.keys()])].filter((name) => Buffer.compare(a.get(name) ?? Buffer.of(), b.get(name) ?? Buffer.of()) !== 0); // prettier-ignore

describe.skipIf(!hasFixtures)("a run from the fixture", () => {
  it.each(["bf16", "f32"])(
    "in %s keeps every byte of what the stage does not train, in its checkpoint and in its exports",
    async (dtype) => {
      const before = await bytesOf(join(tiny, "deepseek"));
      const isTrained = (name: string): boolean => TRAINED[1].some((prefix) => name.startsWith(prefix));
      const [checkpoint, ...exports] = await trainedAndExported("deepseek", `run-${dtype}`, 1, dtype);
      for (const folder of dtype === "f32" ? exports : [checkpoint!, ...exports]) {
        const changed = differing(before, await bytesOf(folder));
        expect(
          changed.filter((name) => !isTrained(name)),
          folder,
        ).toEqual([]);
        // All that is trained has moved, but for the aligner: no sample has a picture to look at.
        const still = [...before.keys()].filter((name) => isTrained(name) && !changed.includes(name));
        expect(
          still.filter((name) => !name.startsWith("model.aligner.")),
          folder,
        ).toEqual([]);
        expect(changed.length).toBeGreaterThan(5);
      }
    },
  );

  it.each(isLong ? LAYOUTS : (["deepseek"] as const))(
    "(%s) that changes nothing passes verify as the fixture does, exported in either layout",
    async (from) => {
      // Losses of no weight: gradients are 0, and so are AdamW's steps.
      const before = await bytesOf(join(tiny, from));
      const [checkpoint, ...exports] = await trainedAndExported(from, `still-${from}`, 0);
      for (const folder of [checkpoint!, ...exports])
        expect(differing(before, await bytesOf(folder)), folder).toEqual([]);
      const other = exports[from === "hf" ? 1 : 0]!;
      // Every byte is that of the fixture, whose training verify.test.ts checks.
      if (!isLong) await writeGolden(tiny, at("golden"), withoutTraining);
      const { code, stdout } = await runCli(["verify", "--model", other, "--golden", isLong ? tiny : at("golden")]);
      expect(stdout).toMatch(/^pass: (\d+) values checked, \1 pass, 0 fail/m);
      expect(code, stdout).toBe(0);
    },
  );
});
