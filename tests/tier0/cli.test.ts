/** The `janus` command without a GPU: usage, exit codes, what goes to which stream, inspect, convert, interruptions and broken pipes. */
import { spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { EventEmitter } from "node:events";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { addConvert } from "../../cli/convert.ts";
import { addData } from "../../cli/data.ts";
import { addGenerate } from "../../cli/generate.ts";
import { addInspect } from "../../cli/inspect.ts";
import { addTrain } from "../../cli/train.ts";
import { EXIT, Interrupted } from "../../cli/errors.ts";
import { inputLines } from "../../cli/standard_input.ts";
import { HubServer } from "../checkpoint/hub_server.ts";
import { tinyFiles, tinyFolder } from "../checkpoint/tiny.ts";
import { openOutput, runCli, runHere, startCli } from "../cli.ts";
import type { CliResult } from "../cli.ts";
import { hasFixtures } from "../fixtures.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-cli-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
const project = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
const STACK = /\n +at /;

interface ErrorResult {
  readonly error: { readonly name: string; readonly message: string; readonly exitCode: number };
}
/** Stdout as the one JSON object that it must be. */
const json = <T = Record<string, unknown>>({ stdout }: CliResult): T => JSON.parse(stdout) as T;

describe("usage", () => {
  it("--version and --help go to stdout and end with 0; help lists commands and exit codes", async () => {
    const [version, help] = await Promise.all([runCli(["--version"]), runCli(["--help"])]);
    expect(version).toEqual({ code: 0, stdout: `${project.version}\n`, stderr: "" });
    expect([help.code, help.stderr]).toEqual([0, ""]);
    for (const command of ["inspect", "convert", "doctor"])
      expect(help.stdout).toMatch(new RegExp(`^  ${command} `, "m"));
    const shown = [...help.stdout.matchAll(/^ {2}(\d+) {2,}/gm)].map(([, code]) => Number(code));
    expect(shown).toEqual([0, 1, 2, 3, 4, 5, 6, 70, 130]);
    expect(help.stdout).toMatch(/143 by SIGTERM/);
  });

  const wrong: [string, string[], RegExp, string][] = [
    ["a misspelt command", ["inspct"], /unknown command 'inspct'; did you mean inspect\?/, "janus"],
    ["a misspelt option", ["inspect", "x", "--jsn"], /unknown option '--jsn'; did you mean --json\?/, "janus inspect"],
    ["a missing argument", ["inspect"], /missing required argument 'model'/, "janus inspect"],
    ["an argument too many", ["inspect", "a", "b"], /too many arguments for 'inspect'/, "janus inspect"],
    ["a missing option", ["convert", "a", "b"], /required option '--layout <layout>' not specified/, "janus convert"],
    ["a wrong choice", ["convert", "a", "b", "--layout", "gguf"], /'--layout <layout>' argument 'gguf' is invalid.*hf, deepseek/, "janus convert"],
  ]; // prettier-ignore
  it.each(wrong)("%s ends with 2 and says what and where to look", async (_, args, message, command) => {
    const add = { inspect: addInspect, convert: addConvert }[args[0]!];
    const result = await (add ? runHere(add, args) : runCli(args));
    expect([result.code, result.stdout]).toEqual([EXIT.usage, ""]);
    const [first, ...rest] = result.stderr.split("\n");
    expect(first).toMatch(/^error: [^:]/);
    expect(first).toMatch(message);
    expect(rest).toEqual([`See: ${command} --help`, ""]);
  });
  it("help says what --resume does, and that a dry run only estimates", async () => {
    const { stdout } = await runCli(["train", "--help"]);
    const help = stdout.replace(/\s+/g, " ");
    expect(help).toContain(
      "auto: resume from the newest valid checkpoint of the run folder, if it has one. never: fail if the run folder has a checkpoint",
    );
    expect(help).toMatch(
      /--dry-run estimate .*; train and write nothing --measure-step with --dry-run: run the longest step once/,
    );
  });
  it("says that an option with several values took the argument behind it", async () => {
    const result = await runHere(addTrain, ["train", "--model", "m", "--run", "r", "--data", "a.jsonl", "stage3"]);
    expect([result.code, result.stderr]).toEqual([
      EXIT.usage,
      expect.stringMatching(/missing required argument 'settings'\n--data and --set take all words/),
    ]);
  });
  it("no command at all shows the help on stderr and ends with 2", async () => {
    const result = await runCli([]);
    expect([result.code, result.stdout]).toEqual([EXIT.usage, ""]);
    expect(result.stderr).toMatch(/^Usage: janus/);
  });
  it("a command that several processes cannot share is refused if mpirun started it", async () => {
    const { code, stderr } = await runCli(["inspect", "shapes"], {
      env: { OMPI_COMM_WORLD_SIZE: "2", OMPI_COMM_WORLD_RANK: "0" },
    });
    expect([code, stderr]).toEqual([
      EXIT.usage,
      expect.stringMatching(/janus inspect runs as one process; Open MPI started 2/),
    ]);
  });
  it("an error of usage is JSON too where that was asked for, but not after --", async () => {
    const [asked, not] = await Promise.all([runCli(["inspect", "--json"]), runCli(["inspect", "a", "--", "--json"])]);
    expect(json<ErrorResult>(asked).error).toEqual({
      name: "UsageError",
      message: "missing required argument 'model'",
      exitCode: 2,
    });
    expect([not.code, not.stdout]).toEqual([EXIT.usage, ""]);
  });
});

describe("errors", () => {
  const cases: [string, () => string[], RegExp, number][] = [
    ["an absent path", () => ["inspect", "./absent"], /there is no folder \.\/absent; models on the hub are named owner\/name/, EXIT.input],
    ["a name without an owner", () => ["inspect", "absent"], /there is no folder absent/, EXIT.input],
    ["a file", () => ["inspect", "package.json"], /package\.json is not a folder; name the one with config\.json/, EXIT.input],
    ["an empty folder", () => (mkdirSync(join(temporary, "empty"), { recursive: true }), ["inspect", join(temporary, "empty")]), /no config\.json.*it is empty/, EXIT.input],
  ]; // prettier-ignore
  it.each(cases)("%s: one message, no stack, and the same as JSON", async (_, args, message, code) => {
    const result = await runHere(addInspect, [...args(), "--json"]);
    expect(result.code).toBe(code);
    expect(result.stderr).toMatch(/^error: /);
    expect(result.stderr).toMatch(message);
    expect(result.stderr).not.toMatch(STACK);
    const { error } = json<ErrorResult>(result);
    expect(error.message).toMatch(message);
    expect([error.name, error.exitCode]).toEqual([expect.stringMatching(/Error$/), code]);
  });
  it("leave stdout empty without --json", async () => {
    const { code, stdout, stderr } = await runHere(addConvert, [
      "convert",
      "absent",
      join(temporary, "x"),
      "--layout",
      "hf",
    ]);
    expect([code, stdout, stderr]).toEqual([
      EXIT.input,
      "",
      "error: there is no folder absent; models on the hub are named owner/name; shapes comes with the package\n",
    ]);
  });
});

describe.skipIf(!hasFixtures)("inspect", () => {
  const folder = fileURLToPath(tinyFolder("deepseek"));
  it("prints a table, and nothing on stderr", async () => {
    const { code, stdout, stderr } = await runCli(["inspect", folder]);
    expect([code, stderr]).toEqual([0, ""]);
    for (const line of [/layout +deepseek/, /format +torch\.save/, /370 tensors in bf16, 5\.44 MB/, /parameters +2,648,299/, /3 layers, 128 wide/, /image decoder +885,891 +33\.5 %/, /stage 3 +1,132,096 parameters/])
      expect(stdout).toMatch(line); // prettier-ignore
    // oxlint-disable-next-line no-control-regex
    expect(stdout).not.toMatch(/\u001b/);
  });
  it("prints one JSON object, from another folder too", async () => {
    const found = json(await runCli(["inspect", ".", "--json"], { cwd: folder }));
    expect(found).toMatchObject({
      layout: "deepseek",
      format: "torch",
      tensors: 370,
      parameters: 2648299,
      config: { language: { layers: 3 } },
    });
    expect(Object.values(found["byPart"] as Record<string, number>).reduce((a, b) => a + b, 0)).toBe(
      found["parameters"],
    );
    expect(found["needs"]).toMatchObject({ training: { stage3: { trainable: 1132096 } } });
  });
});

describe.skipIf(!hasFixtures)("convert", () => {
  const from = fileURLToPath(tinyFolder("deepseek"));
  it("writes the hf checkpoint with its side files, byte for byte, and says what it wrote", async () => {
    const to = join(temporary, "new/hf");
    const result = await runCli(["convert", from, to, "--layout", "hf", "--json"]);
    expect([result.code, result.stderr]).toEqual([0, ""]);
    const { input, output } = json<{
      input: object;
      output: { bytes: number; files: { name: string; bytes: number }[] };
    }>(result);
    expect(input).toMatchObject({ layout: "deepseek", format: "torch" });
    expect(output).toMatchObject({ path: to, layout: "hf", dtype: null });
    expect(output.files.map(({ name }) => name)).toEqual(readdirSync(to).sort());
    expect(output.files.map(({ name }) => name)).toContain("tokenizer.json");
    expect(output.bytes).toBe(output.files.reduce((sum, file) => sum + file.bytes, 0));
    expect(Buffer.compare(readFileSync(join(to, "model.safetensors")), tinyFiles("hf").get("model.safetensors")!)).toBe(
      0,
    );
    expect(readdirSync(join(temporary, "new"))).toEqual(["hf"]);
  });
  it("changes the dtype, and prints a table", async () => {
    const to = join(temporary, "f16");
    const { code, stdout } = await runHere(addConvert, ["convert", from, to, "--layout", "deepseek", "--dtype", "f16"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/deepseek layout in f16, 5\.\d+ MB, written in/);
    expect(json(await runHere(addInspect, ["inspect", to, "--json"]))["dtypes"]).toMatchObject({
      f16: { tensors: 370 },
    });
  });
  it("stops when told in the middle, and leaves nothing behind", async () => {
    const parent = join(temporary, "stopped");
    const controller = new AbortController();
    const { out } = openOutput();
    let reports = 0;
    const stop = (): void => undefined;
    out.progress = () => ({ report: () => (reports++, controller.abort(new Interrupted("interrupted", EXIT.interrupted))), stop, [Symbol.dispose]: stop }); // prettier-ignore
    const program = new Command();
    addConvert(program, { out, stdin: process.stdin, signal: controller.signal, exitCode: 0 });
    const converting = program.parseAsync(["convert", from, join(parent, "out"), "--layout", "hf"], { from: "user" });
    await expect(converting).rejects.toThrow(Interrupted);
    expect(reports).toBe(1);
    expect(readdirSync(parent)).toEqual([]);
  });
  it("does not write into a folder that holds something", async () => {
    const to = join(temporary, "full");
    mkdirSync(to);
    writeFileSync(join(to, "mine"), "x");
    const { code, stderr } = await runHere(addConvert, ["convert", from, to, "--layout", "hf"]);
    expect(code).toBe(EXIT.input);
    expect(stderr).toMatch(/full exists and is not empty; name a new folder/);
    expect(readdirSync(to)).toEqual(["mine"]);
  });
});

describe("the hub", () => {
  let hub: HubServer;
  const env = (): Record<string, string | undefined> => ({
    HF_ENDPOINT: hub.url,
    HF_HOME: join(temporary, "hub-home"),
    HF_HUB_CACHE: undefined,
    HUGGINGFACE_HUB_CACHE: undefined,
    HF_HUB_OFFLINE: undefined,
    TRANSFORMERS_OFFLINE: undefined,
  });
  beforeAll(async () => {
    hub = await new HubServer().start();
    return () => hub.stop();
  });
  it.skipIf(!hasFixtures)("brings a model that is named, says so on stderr, and stdout stays JSON", async () => {
    hub.files.clear();
    for (const [name, bytes] of tinyFiles("hf")) hub.files.set(name, bytes);
    const result = await runCli(["inspect", "someone/Janus-tiny", "--json"], { env: env() });
    expect(result.code).toBe(0);
    expect(json(result)).toMatchObject({ layout: "hf", tensors: 375 });
    expect(result.stderr).toBe("there is no folder someone/Janus-tiny here; asking the hub\n");
    expect(existsSync(join(temporary, "hub-home"))).toBe(false); // headers are read, nothing is fetched
  });
  it("is asked for the default model if JANUS_MODEL is set to nothing", async () => {
    const offline = { ...env(), HF_HUB_OFFLINE: "1", JANUS_MODEL: "" };
    const result = await runCli(["ask", "hi"], { env: offline });
    expect(result.stderr).toMatch(/error: deepseek-ai\/Janus-Pro-1B \(main\): HF_HUB_OFFLINE is set/);
  });
  it("that has no such model ends with 4", async () => {
    hub.listingStatus = 404;
    const result = await runCli(["inspect", "someone/nothing", "--json"], { env: env() });
    hub.listingStatus = 200;
    expect([result.code, json<ErrorResult>(result).error.name]).toEqual([EXIT.hub, "HubNotFoundError"]);
    expect(result.stderr).toMatch(/error: someone\/nothing \(main\): not found on the hub/);
  });
  it("that is not there: the first word comes early and names the model that needs no network", async () => {
    const silent = createServer(() => undefined); // takes connections, and says nothing
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const { child, result } = startCli(["inspect", "a/b"], { env: { ...env(), HF_ENDPOINT: url } });
    let said = "";
    child.stderr!.on("data", (chunk: string) => {
      said += chunk;
      if (said.includes("--model shapes")) child.kill("SIGINT");
    });
    expect((await result).stderr).toMatch(/asking the hub\nstill waiting for the hub; .*--model shapes\n/);
    silent.close();
    const absent = await runCli(["inspect", "a/b"], { env: { ...env(), HF_HUB_OFFLINE: "1" } });
    expect(absent.stderr).toMatch(/--model shapes\nerror: a\/b \(main\): HF_HUB_OFFLINE is set/);
  });
  it("gets the revision and the cache folder of the command line; for a folder they are refused", async () => {
    const cache = join(temporary, "my-cache");
    hub.files.clear();
    hub.files.set("config.json", new Uint8Array(2)).set("model.safetensors", new Uint8Array(1000));
    const fetched = ["convert", "a/b", join(temporary, "c"), "--layout=hf", `--cache-dir=${cache}`, "--revision=v1.0"];
    await runCli(fetched, { env: env() });
    expect(hub.requests.some(({ path }) => path === "/api/models/a/b/revision/v1.0")).toBe(true);
    expect(readdirSync(cache)).toEqual(["models--a--b"]);
    const texts = join(temporary, "x.jsonl");
    writeFileSync(texts, '{"text": "a"}\n');
    const data = ["preview", texts, "--model=a/data", `--cache-dir=${cache}-2`, "--revision=v2.0"];
    vi.stubEnv("HF_ENDPOINT", hub.url);
    await runHere(addData, ["data", ...data]);
    vi.unstubAllEnvs();
    expect(hub.requests.some(({ path }) => path === "/api/models/a/data/revision/v2.0")).toBe(true);
    const useless = await runCli(["inspect", "shapes", "--revision", "x"], { env: env() });
    expect([useless.code, useless.stderr]).toEqual([
      EXIT.usage,
      expect.stringMatching(/--revision is for models on the hub/),
    ]);
  });
  it.each([
    ["SIGINT", EXIT.interrupted, "interrupted"],
    ["SIGTERM", EXIT.terminated, "stopped by SIGTERM"],
  ] as const)(
    "%s in the middle of a download ends it with %i, and what came is kept",
    async (signal, exitCode, message) => {
      hub.files.clear();
      hub.files.set("config.json", new Uint8Array(2)).set("model.safetensors", new Uint8Array(1000));
      const home = join(temporary, signal);
      const { child, result } = startCli(["convert", "someone/slow", join(home, "out"), "--layout=hf", "--json"], {
        env: { ...env(), HF_HOME: home },
      });
      hub.tricks.set("model.safetensors", (response, bytes) => {
        response.writeHead(200, { "content-length": String(bytes.length) });
        response.write(bytes.subarray(0, 100), () => setTimeout(() => child.kill(signal), 100)); // and then nothing
        return true;
      });
      const ended = await result;
      hub.tricks.clear();
      expect(ended.code).toBe(exitCode);
      expect(ended.stderr).toBe(`there is no folder someone/slow here; asking the hub\n${message}\n`);
      expect(json<ErrorResult>(ended).error).toEqual({ name: "Interrupted", message, exitCode });
      const blobs = readdirSync(join(home, "hub/models--someone--slow/blobs"));
      expect(blobs.filter((name) => name.endsWith(".incomplete"))).toHaveLength(1);
      expect(blobs.filter((name) => name.endsWith(".lock"))).toEqual([]);
    },
  );
});

describe("streams", () => {
  it("a reader that goes away is no error", async () => {
    const { child, result } = startCli(["--help"]);
    child.stdout!.destroy();
    expect(await result).toEqual({ code: 0, stdout: "", stderr: "" });
  });
  it.skipIf(!existsSync("/dev/full"))("a full disk is one, without a stack", async () => {
    const full = openSync("/dev/full", "w");
    const { code, stderr } = await runCli(["--help"], { stdio: ["ignore", full, "pipe"] });
    closeSync(full);
    expect(code).toBe(EXIT.input);
    expect(stderr).toMatch(/^error: standard output cannot be written: .*ENOSPC/);
    expect(stderr).not.toMatch(STACK);
  });
  it("stdout is clean and the exit code passed on through scripts/run.mjs, from any folder", () => {
    const script = fileURLToPath(new URL("../../scripts/run.mjs", import.meta.url));
    const janus = (...args: string[]): ReturnType<typeof spawnSync> =>
      spawnSync(process.execPath, [script, "cli/main.ts", ...args], {
        cwd: temporary,
        env: { ...process.env, INIT_CWD: temporary },
        encoding: "utf8",
      });
    expect(janus("--version")).toMatchObject({ status: 0, stdout: `${project.version}\n` });
    mkdirSync(join(temporary, "here"), { recursive: true });
    const result = janus("inspect", "./here", "--json");
    expect(result.status).toBe(EXIT.input);
    expect(JSON.parse(String(result.stdout))).toMatchObject({
      error: { name: "ConfigError", message: expect.stringMatching(/no config\.json/) },
    });
  });
  it("an option that an example does not know is one, without a stack", () => {
    const script = fileURLToPath(new URL("../../scripts/run.mjs", import.meta.url));
    const args = [script, "examples/demo.ts", "--nope"];
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
    expect(stderr).toMatch(/^error: Unknown option '--nope'\.? .*examples\/demo\.ts/m);
    expect(stderr).not.toMatch(STACK);
    expect(status).toBe(EXIT.usage);
  });
});

describe("lines of standard input", () => {
  const linesOf = async (...chunks: readonly (string | Uint8Array)[]): Promise<string[]> => {
    const lines: string[] = [];
    const stdin = Readable.from(chunks.map((chunk) => Buffer.from(chunk)));
    for await (const line of inputLines({ stdin, signal: new AbortController().signal })) lines.push(line);
    return lines;
  };
  it("come whole, whatever the chunks", async () => {
    const euro = Buffer.from("€");
    expect(await linesOf("a\r\nb", "c\n\nd", euro.subarray(0, 1), euro.subarray(1))).toEqual(["a", "bc", "", "d€"]);
    expect(await linesOf("\ufeffa\n")).toEqual(["a"]);
    expect(await linesOf()).toEqual([]);
  });
  const wrong: [string, (string | Uint8Array)[], RegExp][] = [
    ["of an image", ["hi\n", Uint8Array.of(0x89, 0x50, 0xff)], /standard input: text in UTF-8 is required; got other/],
    ["with zero bytes", ["a\0b\n"], /text in UTF-8 is required/],
    ["cut inside a character", [Uint8Array.of(0x61, 0xe2)], /text in UTF-8 is required/],
    ["in UTF-16", [Uint8Array.of(0xff, 0xfe, 0x61, 0)], /standard input is text in UTF-16; save it as UTF-8/],
    ["without an end", ["x".repeat(2 ** 20 + 1)], /a line must have at most 1048576 characters/],
  ];
  it.each(wrong)("are refused %s", async (_, chunks, message) => {
    await expect(linesOf(...chunks)).rejects.toThrow(message);
  });
  it("are refused if standard input is a folder", async () => {
    const result = await runCli(["generate", "-"], { stdio: [openSync(temporary, "r"), "pipe", "pipe"] });
    expect([result.code, result.stderr]).toEqual([
      EXIT.input,
      "error: standard input is a folder, not a file; pipe text in\n",
    ]);
  });
});

describe("prompts of generate", () => {
  it("must be text: an image is no list of prompts", async () => {
    const path = join(temporary, "photo.png");
    writeFileSync(path, Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0a, 0xff));
    const result = await runHere(addGenerate, ["generate", "--prompts", path]);
    expect([result.code, result.stderr]).toEqual([
      EXIT.input,
      expect.stringMatching(/photo\.png: text in UTF-8 is required; got other bytes/),
    ]);
  });
  const typed = (signals = new EventEmitter()): { stdin: PassThrough; result: Promise<CliResult> } => {
    const stdin = new PassThrough();
    return { stdin, result: runHere(addGenerate, ["generate", "-"], { stdin, signals }) };
  };
  it("are read from standard input until a signal comes", async () => {
    const signals = new EventEmitter();
    const { stdin, result } = typed(signals);
    stdin.write("a red circle\n");
    await new Promise((resolve) => setTimeout(resolve, 50));
    signals.emit("SIGTERM");
    expect((await result).code).toBe(EXIT.terminated);
  });
  it("are refused if standard input has no end, or holds a pointer of Git LFS", async () => {
    const endless = typed();
    endless.stdin.end(new Uint8Array(17 * 2 ** 20).fill(0x61));
    expect(await endless.result).toMatchObject({
      code: EXIT.input,
      stderr: expect.stringMatching(/standard input: prompts must have at most 16777216 bytes/),
    });
    const pointer = typed();
    pointer.stdin.end("version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    expect(await pointer.result).toMatchObject({
      code: EXIT.input,
      stderr: expect.stringMatching(/standard input is a pointer of Git LFS/),
    });
  });
});
