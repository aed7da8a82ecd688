/**
 * Golden launch traces: what a program launches on the null device, line by line, kept in `tests/golden/`. A refactor that should change
 * nothing shows no difference; one that should is seen in review. `JANUS_UPDATE_GOLDEN=1 npm run test:fast` writes them again.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { expect } from "vitest";
import { traceOf } from "../index.ts";
import type { Device, Launch } from "../index.ts";

const folder = new URL("./golden/", import.meta.url);

/** The launches of `fn` on `device`. */
export function launchesIn(device: Device, fn: () => void): Launch[] {
  const launches: Launch[] = [];
  const listener = (launch: Launch): void => void launches.push(launch);
  device.onLaunch(listener);
  try {
    fn();
  } finally {
    device.offLaunch(listener);
  }
  return launches;
}

/** Compares a trace with `tests/golden/NAME.txt`, or writes that file when asked to by the environment. */
export function expectGolden(name: string, launches: readonly Launch[]): void {
  const file = new URL(`${name}.txt`, folder);
  const text = `${traceOf(launches).join("\n")}\n`;
  if (process.env["JANUS_UPDATE_GOLDEN"]) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(file, text);
    return;
  }
  if (!existsSync(file)) expect.fail(`tests/golden/${name}.txt is not there; write it with JANUS_UPDATE_GOLDEN=1`);
  expect(
    text.split("\n"),
    `differs from tests/golden/${name}.txt; if that is meant, write it with JANUS_UPDATE_GOLDEN=1`,
  ).toEqual(readFileSync(file, "utf8").split("\n"));
}
