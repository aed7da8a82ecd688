/** `janus ckpt` on a run folder that holds a tiny model: what it prints, its exit codes, that an export is the conversion, and differences. */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Command } from "commander";
import { addCkpt } from "../../cli/ckpt.ts";
import { EXIT, reportError } from "../../cli/errors.ts";
import { encode } from "../../engine/dtype.ts";
import { encodeSafetensors } from "../../model/io/safetensors.ts";
import { compareFolders } from "../../train/node/run/compare.ts";
import { RunFolder } from "../../train/node/run/run_folder.ts";
import { tinyFiles } from "../checkpoint/tiny.ts";
import { openOutput } from "../cli.ts";
import type { CliResult } from "../cli.ts";
import { hasFixtures } from "../fixtures.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-ckpt-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
const path = join(temporary, "run");
const folder = (step: number): string => join(path, `step-${String(step).padStart(8, "0")}`);

/** The command in this process. */
async function ckpt(...args: string[]): Promise<CliResult> {
  const { out, text } = openOutput({ json: args.includes("--json") });
  const controller = new AbortController();
  const context = { out, stdin: process.stdin, signal: controller.signal, exitCode: EXIT.done as number };
  const program = new Command().exitOverride().configureOutput({ outputError: () => undefined });
  addCkpt(program, context);
  try {
    await program.parseAsync(["ckpt", ...args], { from: "user" });
  } catch (error) {
    context.exitCode = await reportError(error, out, controller.signal);
  }
  out.close();
  await out.flush();
  return { code: context.exitCode, ...text };
}

const floats = (values: number[]): Uint8Array => encode(values, "f32");
const moments = (values: number[]): Uint8Array =>
  encodeSafetensors([
    { name: "w.m", dtype: "f32", shape: [values.length], data: floats(values) },
    { name: "w.v", dtype: "f32", shape: [2], data: floats([1, 2]) },
  ]);

beforeAll(async () => {
  await using run = await RunFolder.open(path, { create: true });
  for (const step of [10, 20]) {
    await run.save(
      step,
      async (sink) => {
        const model = sink;
        if (hasFixtures) for (const [name, content] of tinyFiles("hf")) await model.write(name, content);
        await sink.write("optimizer.safetensors", moments(step === 10 ? [3, 4, 0] : [3, 4, 0.5]));
        await sink.write("state.json", new TextEncoder().encode(JSON.stringify({ step })));
      },
      { last: 9 },
    );
  }
});

describe("janus ckpt", () => {
  it("ls shows steps, sizes and whether each is whole; --quick does not read the bytes", async () => {
    const [shown, quick] = [await ckpt("ls", path), await ckpt("ls", path, "--quick")];
    expect([shown.code, shown.stdout.split("\n").length]).toEqual([0, 3]);
    expect(shown.stdout).toMatch(/^10 +\S+ \w+ +verified\n20 +\S+ \w+ +verified\n$/);
    expect(quick.stdout).toMatch(/^10 +\S+ \w+ +sizes agree\n/);
    const json = JSON.parse((await ckpt("ls", path, "--json")).stdout) as { checkpoints: object[] };
    expect(json.checkpoints).toMatchObject([{ step: 10, verified: true, problems: [] }, { step: 20, verified: true }]); // prettier-ignore
  });

  it("verify ends with 1 and says what is wrong; ls still lists; export refuses", async () => {
    const file = join(folder(20), "state.json");
    const before = readFileSync(file);
    writeFileSync(file, `{"step":21}`);
    try {
      const [all, one, good] = [
        await ckpt("verify", path),
        await ckpt("verify", path, "20"),
        await ckpt("verify", path, "10"),
      ];
      expect([all.code, one.code, good.code]).toEqual([EXIT.checkFailed, EXIT.checkFailed, 0]);
      expect(all.stdout).toMatch(/^10 .* verified\n20 .* DAMAGED\nstep 20: state.json: sha256 /);
      expect(await ckpt("ls", path)).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/20 .* DAMAGED/) as string,
      });
      expect((await ckpt("ls", path, "--quick")).stdout).toMatch(/20 .* sizes agree/);
      const refused = await ckpt("export", path, "20", join(temporary, "refused"));
      expect([refused.code, refused.stderr]).toEqual([
        EXIT.input,
        expect.stringMatching(/is damaged, nothing is exported/),
      ]);
    } finally {
      writeFileSync(file, before);
    }
  });

  it("a step or a folder that is not there ends with 3", async () => {
    expect(await ckpt("verify", path, "15")).toMatchObject({
      code: EXIT.input,
      stderr: expect.stringMatching(/no checkpoint of step 15; it has 10, 20/) as string,
    });
    expect(await ckpt("ls", join(temporary, "none"))).toMatchObject({
      code: EXIT.input,
      stderr: expect.stringMatching(/none does not exist/) as string,
    });
    expect(await ckpt("diff", folder(10), temporary + "/none")).toMatchObject({ code: EXIT.input });
  });

  it.skipIf(!hasFixtures).each(["hf", "deepseek"] as const)(
    "export in the %s layout is what the fixture has",
    async (layout) => {
      const out = join(temporary, layout);
      expect(await ckpt("export", path, "20", out, "--layout", layout)).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(new RegExp(`${layout} layout, `)) as string,
      });
      expect(readdirSync(out)).toContain("config.json");
      // The original is torch.save there: back to hf, so that bytes can be compared.
      const back = layout === "hf" ? out : join(temporary, "back");
      if (layout === "deepseek") {
        const { openCheckpoint } = await import("../../model/janus/checkpoint/checkpoint.ts");
        const { convertCheckpoint } = await import("../../model/janus/checkpoint/convert.ts");
        const { folderSource, writeFolderAtomic } = await import("../../model/node/files.ts");
        const checkpoint = await openCheckpoint(folderSource(out));
        await writeFolderAtomic(
          back,
          0,
          async (sink) => void (await convertCheckpoint(checkpoint, sink, { layout: "hf" })),
        );
        await checkpoint.close();
      }
      // Every tensor of the model is there; the moments are the run's alone.
      const { tensors } = await compareFolders(back, folder(20));
      expect(tensors.filter(({ file }) => file === "model").length).toBeGreaterThan(100);
      expect(tensors.filter(({ state }) => state !== "equal").map(({ file }) => file)).toEqual([
        "optimizer",
        "optimizer",
      ]);
      expect((await ckpt("diff", back, back)).stdout).toMatch(/^equal: \d+ tensors, 0 differ\n$/);
    },
  );

  it("diff tells equal tensors from others, by relative L2, and ends with 1", async () => {
    expect(await ckpt("diff", folder(10), folder(10))).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^equal: /) as string,
    });
    const shown = await ckpt("diff", folder(10), folder(20));
    expect(shown.code).toBe(EXIT.checkFailed);
    expect(shown.stdout).toMatch(/ tensors, 1 differ\n {2}optimizer: w.m +relative L2 1.00e-1\n$/);
    const json = JSON.parse((await ckpt("diff", folder(10), folder(20), "--json")).stdout) as {
      equal: boolean;
      tensors: object[];
    };
    expect(json.equal).toBe(false);
    expect(json.tensors).toContainEqual({
      file: "optimizer",
      name: "w.m",
      state: "differs",
      relativeL2: 0.1,
      specs: ["f32 [3]", "f32 [3]"],
    });
    expect(json.tensors).toContainEqual({
      file: "optimizer",
      name: "w.v",
      state: "equal",
      relativeL2: null,
      specs: ["f32 [2]", "f32 [2]"],
    });
  });

  it("the norm of a counts where both are equal too, chunk by chunk", async () => {
    const [a, b] = [join(temporary, "small10"), join(temporary, "small20")];
    for (const out of [a, b]) mkdirSync(out);
    writeFileSync(join(a, "optimizer.safetensors"), moments([3, 4, 0]));
    writeFileSync(join(b, "optimizer.safetensors"), moments([3, 4, 0.5]));
    const { tensors } = await compareFolders(a, b, { chunkBytes: 8 });
    expect(tensors.find(({ name }) => name === "w.m")).toMatchObject({ state: "differs", relativeL2: 0.1 });
  });

  it("diff sees other shapes, tensors of one side only, other dtypes, and takes shards as one file", async () => {
    const [a, b] = [join(temporary, "a"), join(temporary, "b")];
    const half = { dtype: "bf16", shape: [2] } as const;
    const one = { name: "one", ...half, data: encode([1, 2], "bf16") };
    const two = { name: "two", ...half, data: encode([0, 0], "bf16") };
    for (const out of [a, b]) mkdirSync(out);
    writeFileSync(
      join(a, "model.safetensors"),
      encodeSafetensors([
        one,
        two,
        { name: "three", dtype: "i64", shape: [1], data: new Uint8Array(8) },
        { name: "only", ...half, data: one.data },
      ]),
    );
    writeFileSync(
      join(b, "model-00001-of-00002.safetensors"),
      encodeSafetensors([one, { name: "two", ...half, data: encode([1, 0], "bf16") }]),
    );
    writeFileSync(
      join(b, "model-00002-of-00002.safetensors"),
      encodeSafetensors([
        { name: "three", dtype: "i64", shape: [1], data: new Uint8Array(8).fill(1) },
        { name: "new", dtype: "f32", shape: [0], data: new Uint8Array(0) },
      ]),
    );
    const { tensors } = await compareFolders(a, b);
    expect(tensors.map(({ name, state, relativeL2 }) => [name, state, relativeL2])).toEqual([
      ["new", "only in b", null], ["one", "equal", null], ["only", "only in a", null],
      ["three", "differs", null], ["two", "differs", Infinity],
    ]); // prettier-ignore
    writeFileSync(
      join(b, "model-00002-of-00002.safetensors"),
      encodeSafetensors([{ name: "three", dtype: "f32", shape: [1], data: floats([0]) }]),
    );
    const other = (await compareFolders(a, b)).tensors.find(({ name }) => name === "three");
    expect(other).toMatchObject({ state: "other shape", specs: ["i64 [1]", "f32 [1]"] });
  });
});
