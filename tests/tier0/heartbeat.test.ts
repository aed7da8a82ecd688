/** Who is missed in the ring of ranks, and who is not. */
import { expect, it } from "vitest";
import { Heartbeat } from "../../train/node/ranks/heartbeat.ts";

/** A heartbeat of 20 beats in its limit, whose timer the test is. */
function ring(): { heartbeat: Heartbeat; sent: () => number; silences: () => number; neighbour: { runs: boolean } } {
  const neighbour = { runs: true };
  let [sent, silences] = [0, 0];
  const beats = { send: () => void sent++, heard: () => neighbour.runs };
  const heartbeat = new Heartbeat(beats, { timeoutMs: 1000, onSilence: () => void silences++ });
  return { heartbeat, sent: () => sent, silences: () => silences, neighbour };
}
const ticks = (heartbeat: Heartbeat, count: number): void => {
  for (let i = 0; i < count; i++) heartbeat.tick();
};

it("a neighbour is missed after the limit, and one that comes back before is not", () => {
  const { heartbeat, sent, silences, neighbour } = ring();
  ticks(heartbeat, 50);
  expect([sent(), silences()]).toEqual([50, 0]);
  neighbour.runs = false;
  ticks(heartbeat, 19);
  expect(silences()).toBe(0);
  neighbour.runs = true;
  ticks(heartbeat, 1);
  neighbour.runs = false;
  ticks(heartbeat, 19);
  expect(silences()).toBe(0);
  ticks(heartbeat, 1);
  expect(silences()).toBe(1);
});

it("a process whose GPU does not answer sends no beats until it does", async () => {
  const { heartbeat, sent } = ring();
  let answer = (): void => undefined;
  heartbeat.watch(() => new Promise<void>((resolve) => (answer = resolve)));
  ticks(heartbeat, 10);
  expect(sent()).toBe(1);
  answer();
  await new Promise((resolve) => setImmediate(resolve));
  heartbeat.watch(() => Promise.reject(new Error("the device is lost"))); // which other work reports
  ticks(heartbeat, 1);
  await new Promise((resolve) => setImmediate(resolve));
  heartbeat.watch(null);
  ticks(heartbeat, 3);
  expect(sent()).toBe(5);
});

it("a probe that fails at once, as of a lost device, does not stop the beats", async () => {
  const { heartbeat, sent } = ring();
  heartbeat.watch(() => {
    throw new Error("the device is lost");
  });
  for (let i = 0; i < 3; i++) {
    heartbeat.tick();
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(sent()).toBe(3);
});
