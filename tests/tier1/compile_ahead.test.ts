/** Pipelines that are built in the background while weights are read: those that drawing and answering need, and no errors of theirs. */
import { expect, it, vi } from "vitest";
import { Device, DisposedError, Janus, KernelError, empty, kernel, launch } from "../../index.node.ts";
import { useDevice } from "../gpu.ts";

const device = useDevice();
const image = { width: 32, height: 32, data: new Uint8Array(3 * 32 * 32).fill(100) };

/** A device that chooses kernels as GPUs do, for software devices compile when a pipeline first runs. */
async function gpu(): Promise<Device> {
  const made = await Device.create();
  Object.defineProperty(made, "capabilities", { value: { ...made.capabilities, software: false } });
  return made;
}

it("loading builds what an image and an answer about an image need; software devices build nothing ahead", async () => {
  const built = await gpu();
  const ahead = vi.spyOn(built, "compileAhead");
  const janus = await Janus.fromPretrained("shapes", { device: built });
  await ahead.mock.results[0]!.value;
  const before = built.stats.pipelinesCreated;
  expect(before).toBeGreaterThan(50);
  await janus.generate("a red circle", { seed: 1 }).result();
  await janus.ask("What is it?", { images: [image], maxNewTokens: 4 }).result();
  expect(built.stats.pipelinesCreated - before).toBe(0);
  built.destroy();

  const at = device().stats.pipelinesCreated;
  (await Janus.fromPretrained("shapes", { device: device() })).model.dispose();
  expect(device().stats.pipelinesCreated - at, "those that count values which are not finite").toBeLessThan(10);
});

const source = (name: string, body: string): string => `@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn ${name}() { ${body} }`;

it("a pipeline that cannot be built is named by its launch; one that is not ready is built by its launch", async () => {
  const made = await gpu();
  const [good, bad] = [kernel("good", source("good", "y[0] = 3;"), { y: "write" }), kernel("bad", source("bad", "y[0] = true;"), { y: "write" })]; // prettier-ignore
  const counting = await Device.create({ backend: "null", capabilities: made.capabilities });
  for (const one of [good, bad]) launch(one, { buffers: { y: empty([1], { device: counting }) }, grid: [1] });
  void made.compileAhead(counting);
  counting.destroy();
  const y = empty([1], { device: made });
  launch(good, { buffers: { y }, grid: [1] });
  expect(Array.from(await y.data())).toEqual([3]);
  await made.sync();
  launch(bad, { buffers: { y }, grid: [1] });
  await expect(made.sync()).rejects.toThrow(KernelError);
  expect(Array.from(await y.data())).toEqual([3]);
  made.destroy();
  expect(() => made.compileAhead(device())).toThrow(DisposedError);
});
