/**
 * `npm run demo`: trains a small network on the GPU until it tells three spirals apart, and draws its loss. Until the model is in the tree
 * this is the main job in miniature: data, forward, backward, optimizer, convergence.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { Device, F, backward, capture, manualSeed, nn, noGrad, now, scope, tensor, zeroGradients } from "../index.ts";
import type { Tensor } from "../index.ts";
import { AdamW } from "../train/optimizer.ts";
import { lossPlot } from "./plot.ts";

const CLASSES = 3;
const POINTS = 300;
const TARGET = 0.99;

/** points [N, 2] → logits [N, 3] */
class Spirals extends nn.Module {
  readonly fc1 = new nn.Linear(2, 64);
  readonly fc2 = new nn.Linear(64, 64);
  readonly fc3 = new nn.Linear(64, CLASSES);

  forward(x: Tensor): Tensor {
    return this.fc3.call(F.silu(this.fc2.call(F.silu(this.fc1.call(x)))));
  }
}

/** Three arms of a spiral with a little noise; `phase` tells training points from test points. */
function spirals(phase: number): { points: Float32Array; kinds: Int32Array } {
  const points = new Float32Array(POINTS * 2);
  const kinds = new Int32Array(POINTS);
  for (let i = 0; i < POINTS; i++) {
    const kind = i % CLASSES;
    const r = (Math.floor(i / CLASSES) + phase) / (POINTS / CLASSES);
    const angle = r * 4 + (kind * 2 * Math.PI) / CLASSES + Math.sin(i * 12.9898 + phase) * 0.1;
    points.set([r * Math.cos(angle), r * Math.sin(angle)], 2 * i);
    kinds[i] = kind;
  }
  return { points, kinds };
}

const device = await Device.create();
console.log(`device: ${device.name}${device.capabilities.software ? " (software: correct, slow)" : ""}`);
manualSeed(1);
const model = new Spirals();
const optimizer = new AdamW(model.parameters(), { lr: 1e-2 });
const train = spirals(0);
const test = spirals(0.5);
const x = tensor(train.points, { shape: [POINTS, 2] });
const y = tensor(train.kinds);
const testX = tensor(test.points, { shape: [POINTS, 2] });

// The step changes tensors only, so it can be captured once and replayed.
const step = await capture(() => {
  const loss = F.crossEntropy(model.call(x), y);
  backward(loss);
  optimizer.step();
  zeroGradients(model.parameters());
  return loss.detach();
});

async function accuracy(): Promise<number> {
  const guess = noGrad(() => scope(() => model.call(testX).argmax(1)));
  const kinds = await guess.data();
  guess.dispose();
  return Array.from(kinds).reduce((sum, k, i) => sum + Number(k === test.kinds[i]), 0) / POINTS;
}

const losses = [await step.result.item()];
const started = now();
let reached = 0;
while (reached < TARGET && losses.length < 3000) {
  step.replay();
  losses.push(await step.result.item());
  if (losses.length % 50 === 0) {
    reached = await accuracy();
    console.log(`step ${String(losses.length).padStart(4)}  loss ${losses.at(-1)!.toFixed(4)}  test accuracy ${(100 * reached).toFixed(1)} %`);
  }
}
await device.sync();
const seconds = (now() - started) / 1000;
mkdirSync("demo", { recursive: true });
writeFileSync("demo/loss.svg", await lossPlot(`three spirals on ${device.name}`, losses));
console.log(`${losses.length} steps in ${seconds.toFixed(1)} s (${((1000 * seconds) / losses.length).toFixed(2)} ms a step, ${step.launches.length} launches each)`);
console.log("loss curve: demo/loss.svg");
device.destroy();
if (reached < TARGET) {
  console.error(`did not converge: test accuracy ${(100 * reached).toFixed(1)} %, wanted ${100 * TARGET} %`);
  process.exit(1);
}
