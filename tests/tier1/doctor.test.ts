/** `janus doctor`: the report, its exit codes, and a self-test that sees a device that computes or reads wrongly. */
import { expect, it } from "vitest";
import { Device } from "../../index.ts";
import { doctor } from "../../cli/doctor.ts";
import { runChecks } from "../../cli/doctor_checks.ts";
import type { Check } from "../../cli/doctor_checks.ts";
import { PROBES, lossyOps } from "../../cli/doctor_not_finite.ts";
import { Interrupted } from "../../cli/errors.ts";
import { openOutput, runCli } from "../cli.ts";

const CHECKS = ["read-back", "matmul", "bf16 storage", "capture and replay", "NaN and infinity"];
const { signal } = new AbortController();

async function failures(device: Device): Promise<Map<string, string>> {
  const failed = new Map<string, string>();
  for await (const { name, passed, detail } of runChecks(device)) if (!passed) failed.set(name, detail);
  return failed;
}

/** A device whose read-backs go through `change`. */
async function changed(change: (words: Float32Array) => void): Promise<Device> {
  const device = await Device.create();
  const read = device.read.bind(device);
  device.read = async (binding) => {
    const bytes = await read(binding);
    change(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 2));
    return bytes;
  };
  return device;
}

it("prints what there is and passes on this device", async () => {
  const { code, stdout } = await runCli(["doctor"]);
  expect(code).toBe(0);
  for (const part of [/^machine$/m, /node +\d+\./, /webgpu +0\./, /^adapters\n {2}0 +\S/m, /memory budget/, /maxBufferSize +[\d,]+$/m]) expect(stdout).toMatch(part); // prettier-ignore
  for (const name of CHECKS) expect(stdout).toMatch(new RegExp(`^ {2}pass {2}${name}: `, "m"));
});

it("gives the same as one JSON object, with a warning for a software adapter", async () => {
  const { code, stdout } = await runCli(["doctor", "--adapter", "0", "--json"]);
  expect(code).toBe(0);
  const report = JSON.parse(stdout) as {
    passed: boolean;
    checks: Check[];
    adapters: { name: string; software: boolean }[];
    device: { name: string; software: boolean };
    warnings: string[];
  };
  expect(report).toMatchObject({ passed: true, machine: { node: process.versions.node } });
  expect(report.checks.map(({ name, passed }) => [name, passed])).toEqual(CHECKS.map((name) => [name, true]));
  expect(report.device.name).toBe(report.adapters[0]!.name);
  expect(report.warnings.some((text) => /a software adapter/.test(text))).toBe(report.device.software);
});

it("an adapter that is not there is wrong usage, and those that are there are named", async () => {
  const { code, stdout, stderr } = await runCli(["doctor", "--adapter", "no such GPU", "--json"]);
  expect(code).toBe(2);
  expect(stderr).toMatch(/error: .*one of the adapters \(0 \S.*got "no such GPU"/);
  expect(JSON.parse(stdout)).toMatchObject({ error: { name: "ArgumentError", exitCode: 2 } });
});

it.skipIf(process.platform !== "linux")("no driver ends with 5, and the report is given all the same", async () => {
  const { code, stdout, stderr } = await runCli(["doctor", "--json"], { env: { JANUS_VULKAN_DIR: "/nowhere", VK_ICD_FILENAMES: "/nowhere", VK_DRIVER_FILES: "/nowhere" } }); // prettier-ignore
  expect(code).toBe(5);
  expect(stderr).toMatch(/error: the GPU cannot be opened: JANUS_VULKAN_DIR must be a folder with .*got \/nowhere/);
  expect(JSON.parse(stdout)).toMatchObject({
    passed: false,
    device: null,
    error: { name: "DeviceError", exitCode: 5 },
  });
});

it("fails where results are wrong: all of it by a flipped bit, matmul by little precision", async () => {
  const flipping = await changed((words) => (new Uint32Array(words.buffer, words.byteOffset, 1)[0]! ^= 1 << 22));
  expect([...(await failures(flipping)).keys()]).toEqual(CHECKS);
  flipping.destroy();
  const rough = await changed((words) => words.forEach((value, i) => (words[i] = value * (1 + 1e-4 * (i % 2)))));
  expect((await failures(rough)).get("matmul")).toMatch(/relative error 7\.\de-5 against float64/);
  rough.destroy();
});

it("names each op that loses NaN or infinity, once", async () => {
  const asks = (isAsked: (value: number) => boolean): string[] => [
    ...new Set(PROBES.filter(({ expected }) => expected.some(isAsked)).map(({ op }) => op)),
  ];
  const losing = async (isLost: (value: number) => boolean): Promise<string[]> => {
    const device = await changed((words) => words.forEach((value, i) => isLost(value) && (words[i] = 0)));
    const found = await lossyOps(device);
    device.destroy();
    return found;
  };
  const isInfinite = (value: number): boolean => Math.abs(value) === Infinity;
  // 16-bit results are read as pairs, which are no f32 infinities.
  const wide = (ops: readonly string[]): string[] => ops.filter((op) => !/written|beyond/.test(op));
  expect(await losing(Number.isNaN)).toEqual(expect.arrayContaining(wide(asks(Number.isNaN))));
  const lossy = await losing(isInfinite);
  expect(lossy).toEqual(expect.arrayContaining(wide(asks(isInfinite))));
  expect(new Set(lossy).size).toBe(lossy.length);
  for (const family of [
    "max",
    "clamp",
    "ne",
    "softmax",
    "crossEntropy",
    "attention (NaN in a key)",
    "argmax",
    "sampleTokens",
    "f16 storage (written)",
    "bf16 storage (read)",
  ])
    // prettier-ignore
    expect(PROBES.map(({ op }) => op)).toContain(family);
});

it("fails, not throws, where a device throws; ends with 1; and destroys the device", async () => {
  const device = await Device.create({ backend: "null" });
  const { out, text } = openOutput({ json: true });
  const context = { out, stdin: process.stdin, signal, exitCode: 0 };
  await doctor(context, async () => device);
  await out.flush();
  expect(context.exitCode).toBe(1);
  const { passed, checks } = JSON.parse(text.stdout) as { passed: boolean; checks: Check[] };
  expect(passed).toBe(false);
  expect(checks.map((check) => check.name)).toEqual(CHECKS);
  for (const check of checks)
    expect(check).toMatchObject({ passed: false, detail: expect.stringMatching(/null device/) });
  expect(() => device.check()).toThrow(/destroyed/);
});

it("stops between two checks when told", async () => {
  const controller = new AbortController();
  controller.abort(new Interrupted("interrupted", 130));
  const device = await Device.create({ backend: "null" });
  const { out } = openOutput();
  await expect(
    doctor({ out, stdin: process.stdin, signal: controller.signal, exitCode: 0 }, async () => device),
  ).rejects.toThrow(Interrupted);
});

it("leaves nothing on the device", async () => {
  const device = await Device.create();
  const live = device.pool.stats.liveBytes;
  expect(await failures(device)).toEqual(new Map());
  expect(device.pool.stats.liveBytes).toBe(live);
  device.destroy();
});
