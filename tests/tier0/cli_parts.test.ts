/** The parts of the `janus` command by themselves: option values, exit codes of errors, signals, and what goes to stdout and stderr. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Command } from "commander";
import { afterAll, describe, expect, it, vi } from "vitest";
import * as engineErrors from "../../engine/errors.ts";
import * as checkpointErrors from "../../model/io/errors.ts";
import * as hubErrors from "../../model/node/hub_settings.ts";
import { FileError } from "../../model/node/files.ts";
import { PackageError } from "../../model/node/image_file.ts";
import { ImageFormatError } from "../../model/image/image.ts";
import { PromptError } from "../../model/request.ts";
import { addData } from "../../cli/data.ts";
import { sourcesOf } from "../../cli/train.ts";
import { SaveError } from "../../train/node/run/errors.ts";
import { EXIT, Interrupted, UsageError, exitCodeOf, reportError } from "../../cli/errors.ts";
import { formatBytes, formatDuration } from "../../cli/format.ts";
import { collect, numberIn, wholeNumber } from "../../cli/options.ts";
import { slug } from "../../cli/session.ts";
import { typedPath } from "../../cli/typed_path.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { adviceOn, adviceOnSources } from "../../train/node/advice.ts";
import { listenForSignals } from "../../cli/signals.ts";
import { openOutput, runHere } from "../cli.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-cli-parts-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

describe("options", () => {
  it("values of options are checked, and the option is named", () => {
    const parse = (flag: string, value: string): unknown => {
      const program = new Command("p")
        .exitOverride()
        .configureOutput({ outputError: () => undefined })
        .option("--tokens <n>", "", wholeNumber(1, 16))
        .option("--scale <x>", "", numberIn(0))
        .option("--any <x>", "", numberIn());
      return program.parse([flag, value], { from: "user" }).opts()[flag.slice(2)];
    };
    expect([parse("--tokens", "16"), parse("--scale", "2.5e-1"), parse("--any", "-3")]).toEqual([16, 0.25, -3]);
    for (const bad of ["0", "17", "1.5", "", "x", "0x2", "1e999", "Infinity"]) {
      expect(() => parse("--tokens", bad), bad).toThrow(
        /'--tokens <n>' argument '.*' is invalid\. It must be a whole number from 1 to 16\./,
      );
    }
    expect(() => parse("--scale", "-1")).toThrow(
      /'--scale <x>' argument '-1' is invalid\. It must be a number of at least 0\./,
    );
    expect(() => parse("--any", "NaN")).toThrow(/It must be a number\./);
  });
});

describe("sources of janus train", () => {
  it("have a task where one is named; folders get the names of classes, files the folder of images", () => {
    const [folder, file] = [tmpdir(), "not/there.jsonl"];
    expect(sourcesOf({ data: [folder, `gen=${file}`, file], images: "i", classes: "c" })).toEqual([
      { path: folder, classes: "c" },
      { path: file, task: "gen", images: "i" },
      { path: file, images: "i" },
    ]);
    expect(sourcesOf({ data: [folder, file] })).toEqual([{ path: folder }, { path: file }]);
    for (const [wrong, message] of [
      [{ data: [file], classes: "c" }, /--classes is for folders/],
      [{ data: [folder], images: "i" }, /--images is for files/],
      [{ data: ["draw=x.jsonl"] }, /the task must be und, text or gen/],
    ] as const) {
      expect(() => sourcesOf(wrong)).toThrow(UsageError);
      expect(() => sourcesOf(wrong)).toThrow(message);
    }
  });
});

it.each<[string[], RegExp]>([
  [
    ["--classes", "names.txt"],
    /--classes is for folders of images by class and tar shards, and no source is one of them/,
  ],
  [["--images", "i", "folder"], /--images is for files/],
  [["--ignore-field", "score", "folder"], /--ignore-field is for records of files/],
])("janus data index refuses an option that no source uses: %j", async ([flag, value, kind], message) => {
  const path = kind === "folder" ? temporary : join(temporary, "a.jsonl");
  const result = await runHere(addData, ["data", "index", path, "--cache", temporary, flag!, value!]);
  expect([result.code, result.stderr]).toEqual([EXIT.usage, expect.stringMatching(message)]);
});

describe("what people type", () => {
  it("an option that may be repeated takes one value each time, and leaves the arguments behind it", () => {
    const program = new Command("p").argument("<words...>").option("--stop <text>", "", collect);
    program.parse(["--stop", "END", "photo.jpg", "--stop", "FIN", "What?"], { from: "user" });
    expect([program.args, program.opts()]).toEqual([["photo.jpg", "What?"], { stop: ["END", "FIN"] }]);
  });
  it("paths may be quoted, escaped, from the home folder, or dropped as file://", async () => {
    const photo = join(temporary, "my photo (1).jpg");
    writeFileSync(photo, "");
    const escaped = photo.replace(/[ ()]/g, "\\$&");
    for (const typed of [photo, `"${photo}"`, `'${photo}'`, escaped, ` ${photo} `, pathToFileURL(photo).href])
      expect(await typedPath(typed)).toBe(photo);
    expect(await typedPath("~/x.png")).toBe(join(homedir(), "x.png"));
    expect(await typedPath("'~/x.png'")).toBe("~/x.png");
    expect(await typedPath("file://%")).toBe("file://%");
    const strange = join(temporary, "'quoted'");
    writeFileSync(strange, "");
    expect(await typedPath(strange)).toBe(strange);
  });
  it("names of files keep letters with their marks", () => {
    expect(["Café au lait", "cafe\u0301", "हिन्दी की", "Ünïcödé!", "...", "a  b"].map(slug)).toEqual(["café-au-lait", "café", "हिन्दी-की", "ünïcödé", "picture", "a-b"]);
  }); // prettier-ignore
});

describe("settings of a run", () => {
  const base = { stage: 3, batch: 1, length: 64, ratios: { und: 0, text: 1, gen: 0 } };
  const config = (steps: number, optimizer: object): TrainConfig =>
    checkConfig({ ...base, steps, optimizer: { lr: 1e-3, ...optimizer } }, "test");
  it("that make it useless are warned about", () => {
    expect(adviceOn(config(100, { warmup: 5000 }))).toEqual([
      expect.stringMatching(
        /optimizer\.warmup is 5000 steps and the run ends after 100: .* only reaches 2\.0e-5 of 1\.0e-3/,
      ),
    ]);
    expect(adviceOn(config(100, { warmup: 60, cooldown: 60 }))).toEqual([expect.stringMatching(/120 steps together/)]);
    expect(adviceOn(config(100, { warmup: 10, cooldown: 20 }))).toEqual([]);
    const again = [{ path: "a.jsonl" }, { path: "./a.jsonl" }, { path: "a.jsonl", task: "und" as const }];
    expect(adviceOnSources(again)).toEqual([expect.stringMatching(/^\.\/a\.jsonl is listed more than once/)]);
    expect(adviceOnSources(again.slice(1))).toEqual([]);
  });
});

describe("errors", () => {
  it("have the exit code of their kind", async () => {
    const cases: [unknown, number][] = [
      [new UsageError("x"), EXIT.usage],
      [new engineErrors.ArgumentError("x"), EXIT.usage],
      [new FileError("x", "ENOENT"), EXIT.input],
      [new PackageError("x"), EXIT.input],
      [new checkpointErrors.ConfigError("x"), EXIT.input],
      [new ImageFormatError("x"), EXIT.input],
      [new PromptError("x"), EXIT.input],
      [new SaveError("x", 3, "ENOSPC", null), EXIT.checkFailed],
      [new hubErrors.HubNetworkError("x"), EXIT.hub],
      [new engineErrors.DeviceError("x"), EXIT.device],
      [new engineErrors.OutOfMemoryError("x"), EXIT.device],
      [new engineErrors.DeviceLostError("x"), EXIT.device],
      [new engineErrors.ShapeError("x"), EXIT.bug],
      [new Error("x"), EXIT.bug],
      ["x", EXIT.bug],
      [new Interrupted("x", EXIT.terminated), 143],
    ];
    for (const [error, code] of cases) expect(await exitCodeOf(error), String(error)).toBe(code);
  });
  it("of the errors on purpose none is a bug but those that no command line can cause", async () => {
    const bugs: string[] = [];
    for (const [name, Kind] of Object.entries({ ...engineErrors, ...checkpointErrors, ...hubErrors })) {
      if (typeof Kind !== "function" || !(Kind.prototype instanceof engineErrors.JanusError)) continue;
      const error = new (Kind as new (message: string, more: unknown) => Error)("x", []);
      if ((await exitCodeOf(error)) === EXIT.bug) bugs.push(name);
    }
    expect(bugs.sort()).toEqual(["AutogradError", "CaptureError", "DTypeError", "DisposedError", "ShapeError"]);
  });

  it("that nobody foresaw come with their stack, those of the file system in our words, those that follow an interruption as that", async () => {
    const controller = new AbortController();
    const report = async (error: unknown): Promise<{ code: number; text: string }> => {
      const { out, text } = openOutput();
      const code = await reportError(error, out, controller.signal);
      await out.flush();
      return { code, text: text.stderr };
    };
    const bug = await report(new Error("oops"));
    expect(bug.code).toBe(EXIT.bug);
    expect(bug.text).toMatch(/^error: Error: oops\n +at /);
    expect(bug.text).toMatch(/a mistake in janus-webgpu/);
    const absent = await readFile(join(temporary, "absent")).catch((error: unknown) => error);
    expect(await report(absent)).toEqual({
      code: EXIT.input,
      text: `error: ${join(temporary, "absent")} does not exist\n`,
    });
    const abortion = new DOMException("This operation was aborted", "AbortError");
    expect((await report(abortion)).code).toBe(EXIT.bug);
    controller.abort(new Interrupted("interrupted", EXIT.interrupted));
    expect(await report(abortion)).toEqual({ code: EXIT.interrupted, text: "interrupted\n" });
    expect((await report(new FileError("gone", "ENOENT"))).code).toBe(EXIT.input);
  });
});

describe("signals", () => {
  const listen = (): {
    send: (signal: string) => void;
    at: (ms: number) => void;
    exits: number[];
    controller: AbortController;
  } => {
    const listeners = new Map<string, () => void>();
    const exits: number[] = [];
    const controller = new AbortController();
    let time = 0;
    const source = { on: (signal: string, listener: () => void) => listeners.set(signal, listener) };
    const { out } = openOutput();
    listenForSignals(source, controller, out, (code) => exits.push(code), () => time); // prettier-ignore
    return { send: (signal) => listeners.get(signal)!(), at: (ms) => (time = ms), exits, controller };
  };
  it("the first one aborts, the second one ends the process at once", () => {
    const { send, at, exits, controller } = listen();
    send("SIGINT");
    expect(controller.signal.aborted).toBe(true);
    expect(controller.signal.reason).toBeInstanceOf(Interrupted);
    expect(exits).toEqual([]);
    at(400);
    send("SIGINT");
    expect(exits).toEqual([EXIT.interrupted]);
  });
  it("one key press that comes twice, as through npm, is one", () => {
    const { send, at, exits } = listen();
    send("SIGINT");
    at(5);
    send("SIGINT");
    expect(exits).toEqual([]);
    at(1000);
    send("SIGTERM");
    expect(exits).toEqual([EXIT.terminated]);
  });
});

describe("output", () => {
  it("with --json is the result alone; text and notes do not get into it", async () => {
    const { out, text } = openOutput({ json: true });
    out.text("streamed");
    out.note("a note");
    out.warn("a warning");
    out.result({ a: 1 }, "human");
    out.errorResult({ name: "E", message: "m", exitCode: 3 });
    expect(() => out.result({})).toThrow(/two results/);
    await out.flush();
    expect(text).toEqual({ stdout: '{\n  "a": 1\n}\n', stderr: "a note\nwarning: a warning\n" });
  });
  it("has colours and bars on a terminal only, and no colours with NO_COLOR", async () => {
    const run = async (options: Parameters<typeof openOutput>[0]): Promise<string> => {
      const { out, text } = openOutput(options);
      const progress = out.progress("bytes");
      progress.report({ done: 1e6, total: 4e6, label: "loading" });
      out.error("bad");
      progress.stop();
      progress.report({ done: 2e6, total: 4e6, label: "loading" });
      await out.flush();
      return text.stderr;
    };
    expect(await run({})).toBe("error: bad\n");
    const terminal = await run({ terminal: true });
    expect(terminal).toContain("\u001b[31merror:\u001b[39m bad\n");
    expect(terminal).toMatch(/loading =+-+ 1\.00 MB of 4\.00 MB \(25\.0 %\)/);
    expect(terminal).not.toContain("2.00 MB");
    expect(terminal.lastIndexOf("\u001b[?25h")).toBeGreaterThan(terminal.lastIndexOf("\u001b[?25l")); // the cursor is back
    expect(await run({ terminal: true, env: { NO_COLOR: "1" } })).toContain("error: bad\n");
  });
  it("says how far a long run is now and then where there is no terminal", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const { out, text } = openOutput();
    using progress = out.progress("tokens");
    for (let i = 0; i <= 70; i++) {
      progress.report({ done: i, total: 576, label: "drawing" });
      vi.advanceTimersByTime(1000);
    }
    vi.useRealTimers();
    await out.flush();
    expect(text.stderr).toBe("drawing: 30 of 576 tokens (5.2 %)\ndrawing: 60 of 576 tokens (10.4 %)\n");
  });
  it("shows no escape sequences out of names", async () => {
    const { out, text } = openOutput();
    out.error("folder \u001b[2Jx");
    await out.flush();
    expect(text.stderr).toBe("error: folder \ufffd[2Jx\n");
  });
  it("numbers are short", () => {
    expect([0, 999, 1000, 999_949, 999_950, 1.5e9, 2e15, Infinity].map(formatBytes)).toEqual([
      "0 B",
      "999 B",
      "1.00 kB",
      "999.9 kB",
      "1.00 MB",
      "1.50 GB",
      "2000.0 TB",
      "unbounded",
    ]);
    expect([0.4, 999, 1000, 59_900, 60_000, 3_600_000].map(formatDuration)).toEqual([
      "0 ms",
      "999 ms",
      "1.0 s",
      "59.9 s",
      "1:00",
      "1:00:00",
    ]);
  });
});
