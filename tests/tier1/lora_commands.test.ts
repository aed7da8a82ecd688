/** `janus finetune`, `janus merge` and `--lora`: from data to an adapter, to images with it, and to a merged model. */
import "../quick_compile.ts";
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { addFinetune } from "../../cli/finetune.ts";
import { addGenerate } from "../../cli/generate.ts";
import { addMerge } from "../../cli/merge.ts";
import { parseLora } from "../../cli/options.ts";
import { Device } from "../../index.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { readPicture } from "../../model/janus/node/janus.ts";
import { folderSource } from "../../model/node/files.ts";
import { runHere } from "../cli.ts";
import { prepare } from "../resume_grid.ts";

const home = mkdtempSync(join(tmpdir(), "janus-lora-"));
const at = (...parts: string[]): string => join(home, ...parts);
const adapter = at("run", "step-00000002");

beforeAll(async () => {
  const device = await Device.create();
  await prepare(home, device);
  device.destroy();
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

const finetune = (...more: string[]): ReturnType<typeof runHere> =>
  runHere(addFinetune, [
    "finetune",
    `--model=${at("model")}`,
    "--data",
    at("data", "gen.jsonl"),
    at("data", "und.jsonl"),
    `--run=${at("run")}`,
    `--cache=${at("cache")}`,
    "--memory=1GB",
    ...more,
  ]);

it("finetune says what it would do, trains an adapter, and resumes with its settings", async () => {
  const dry = await finetune("--dry-run", "--json", "--epochs", "2");
  expect(dry.code, dry.stderr).toBe(0);
  const plan = JSON.parse(dry.stdout) as { method: string; config: { steps: number; batch: number }; survey: object };
  expect(plan).toMatchObject({
    method: "full",
    config: { batch: 16, steps: 3 },
    survey: { records: { und: 9, gen: 9 } },
  });
  expect(existsSync(at("run"))).toBe(false);
  const changes = ["--set", "stopAt=1", "lora.rank=2", "ema={decay: 0.9}", "report.every=0", "optimizer.lr=0.01"];
  const first = await finetune("--method=QLoRA int8", "--epochs", "2", ...changes);
  expect(first.code, first.stderr).toBe(0);
  expect(first.stdout).toMatch(
    /method +QLoRA int8: [\d,]+ parameters train, [\d,]+ are frozen\nrecords +und 9, gen 9; the longest/,
  );
  const second = await finetune("--set", "stopAt=2");
  expect(second.code, second.stderr).toBe(0);
  expect(second.stderr).toMatch(/has checkpoints: resuming with its settings/);
  expect(readdirSync(adapter).toSorted()).toEqual(["MANIFEST.json", "adapter_config.json", "adapter_model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"]); // prettier-ignore
  const config = JSON.parse(readFileSync(join(adapter, "adapter_config.json"), "utf8")) as Record<string, unknown>;
  expect(config).toMatchObject({ peft_type: "LORA", r: 2, lora_alpha: 2, base_model_name_or_path: at("model") });
});

it("finetune counts records whose fields have other names by --field, and refuses names that only the run would obey", async () => {
  const renamed = readFileSync(at("data", "gen.jsonl"), "utf8").replaceAll('"prompt"', '"TEXT_EN"');
  writeFileSync(at("data", "renamed.jsonl"), renamed);
  const dry = (...more: string[]): ReturnType<typeof runHere> =>
    runHere(addFinetune, ["finetune", `--model=${at("model")}`, "--data", at("data", "renamed.jsonl"), `--run=${at("renamed")}`, `--cache=${at("cache")}`, "--memory=1GB", "--method=LoRA", "--dry-run", "--json", ...more]); // prettier-ignore
  const named = await dry("--field", "prompt=TEXT_EN");
  expect(named.code, named.stderr).toBe(0);
  expect(JSON.parse(named.stdout)).toMatchObject({ survey: { records: { und: 0, text: 0, gen: 9 } } });
  const unnamed = await dry();
  expect(unnamed.code).not.toBe(0);
  const set = await dry("--set", "data.fields.prompt=TEXT_EN");
  expect(set.stderr).toMatch(/--set data\.fields has no effect on the records that the plan counts; use --field/);
  writeFileSync(at("data", "pairs.jsonl"), '{"prompt": "a", "chosen": "b", "rejected": "c"}\n');
  const pairs = await runHere(addFinetune, ["finetune", `--model=${at("model")}`, "--data", at("data", "pairs.jsonl"), `--cache=${at("cache")}`, "--memory=1GB", "--dry-run"]); // prettier-ignore
  expect(pairs.stderr).toMatch(/need records to imitate .* preferences are trained with dpo/);
});

it("finetune refuses data whose images are not there before it plans, and names some that are bad", async () => {
  const dry = (name: string, rows: readonly object[]): ReturnType<typeof runHere> => {
    writeFileSync(at("data", name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    return runHere(addFinetune, ["finetune", `--model=${at("model")}`, "--data", at("data", name), `--cache=${at("cache")}`, "--memory=1GB", "--method=LoRA", "--dry-run"]); // prettier-ignore
  };
  const missing = { prompt: "a red square", image: "none.png" };
  const none = await dry("none.jsonl", [missing, missing]);
  expect(none.code).not.toBe(0);
  expect(none.stderr).toMatch(/none\.jsonl: none of 2 records that were looked at can be trained: 2 × .*none\.png/);
  const some = await dry("some.jsonl", [missing, { ...missing, image: "red0.png" }]);
  expect(some.code, some.stderr).toBe(0);
  expect(some.stderr).toMatch(/some\.jsonl: 1 of 2 records that were looked at are bad, .*: 1 × .*none\.png/);
});

it("merge writes a model with other weights than the base, and generate --lora draws with the adapter", async () => {
  for (const [name, more] of [
    ["merged", []],
    ["averaged", ["--ema"]],
    ["unchanged", ["--lora", `${adapter}:0`]],
  ] as const) {
    // prettier-ignore
    const lora = name === "unchanged" ? [] : ["--lora", adapter];
    const { code, stderr } = await runHere(addMerge, ["merge", at("model"), at(name), ...lora, ...more]);
    expect(code, stderr).toBe(0);
    expect(stderr).not.toMatch(/was trained on/);
  }
  const weights = async (name: string): Promise<Buffer> => {
    const checkpoint = await openCheckpoint(folderSource(at(name)));
    const path = "model.language_model.layers.0.mlp.down_proj.weight";
    const bytes = Buffer.from(await checkpoint.read(checkpoint.parameters.get(path)!));
    await checkpoint.close();
    return bytes;
  };
  cpSync(at("model"), at("other"), { recursive: true });
  const { stderr } = await runHere(addMerge, ["merge", at("other"), at("of-other"), "--lora", adapter]);
  expect(stderr).toContain(`${adapter} says that it was trained on ${at("model")}; the model is ${at("other")}`);
  const base = await weights("model");
  expect(base.equals(await weights("unchanged"))).toBe(true);
  expect(base.equals(await weights("merged"))).toBe(false);
  expect((await weights("averaged")).equals(await weights("merged"))).toBe(false);
  const draw = (...more: string[]): ReturnType<typeof runHere> =>
    runHere(addGenerate, ["generate", "a red square", "--seed=1", `--out=${at("images")}`, `--model=${at("model")}`, "--json", ...more]); // prettier-ignore
  const drawn = await draw("--lora", `${adapter}:0.5`, "--lora", adapter);
  expect(drawn.code, drawn.stderr).toBe(0);
  const { images } = JSON.parse(drawn.stdout) as { images: { path: string }[] };
  expect((await readPicture(images[0]!.path)).model).toMatch(/^[0-9a-f]{64}\+[0-9a-f]{16}\*0.5\+[0-9a-f]{16}\*1$/);
});

it("adapters and folders that do not fit are refused before a model is loaded", async () => {
  const none = await runHere(addMerge, ["merge", at("model"), at("new")]);
  expect([none.code, none.stderr]).toEqual([2, expect.stringMatching(/at least one adapter is required/)]);
  const wrong = await runHere(addMerge, ["merge", at("model"), at("new"), "--lora", at("model")]);
  expect([wrong.code, wrong.stderr]).toEqual([3, expect.stringMatching(/an adapter must have adapter_config.json .* got no adapter_config.json/)]); // prettier-ignore
  expect(existsSync(at("new"))).toBe(false);
  expect(parseLora("a:0.5", parseLora("C:/b"))).toEqual([
    { folder: "C:/b", weight: 1 },
    { folder: "a", weight: 0.5 },
  ]);
  expect(() => parseLora("a:x")).toThrow(/It must be a folder, or a folder, : and a number/);
});
