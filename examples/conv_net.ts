/**
 * A small convolutional net (strided convolutions, group norm with swish: the blocks of the VQ tokenizer) that
 * distinguishes discs, squares and crosses in noisy 16×16 images. Run: `npx tsx examples/conv_net.ts`
 */
import { pathToFileURL } from "node:url";
import { Device, F, manualSeed, nn, tensor } from "../index.ts";
import type { Tensor } from "../index.ts";

const SIDE = 16;
const CLASSES = 3;

/** images [N, 1, 16, 16] → logits [N, 3] */
export class ConvNet extends nn.Module {
  readonly conv_in = new nn.Conv2d(1, 16, 3, { padding: 1 });
  readonly norm1 = new nn.GroupNorm(4, 16, { swish: true });
  readonly down1 = new nn.Conv2d(16, 32, 3, { stride: 2, padding: [0, 1, 1, 0] });
  readonly norm2 = new nn.GroupNorm(8, 32, { swish: true });
  readonly down2 = new nn.Conv2d(32, 32, 3, { stride: 2, padding: [0, 1, 1, 0] });
  readonly head = new nn.Linear(32, CLASSES);

  forward(x: Tensor): Tensor {
    const a = this.norm1.call(this.conv_in.call(x)); // [N, 16, 16, 16]
    const b = this.norm2.call(this.down1.call(a)); // [N, 32, 8, 8]
    return this.head.call(this.down2.call(b).mean([2, 3])); // [N, 3]
  }
}

/** One batch: a shape of a random kind, place and size on noise. */
function batchOf(step: number, size: number): { pixels: Float32Array; kinds: Int32Array } {
  let state = (step * 2654435761 + 99) >>> 0;
  const draw = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const pixels = new Float32Array(size * SIDE * SIDE);
  const kinds = new Int32Array(size);
  for (let n = 0; n < size; n++) {
    const kind = (kinds[n] = Math.floor(draw() * CLASSES));
    const radius = 3 + Math.floor(draw() * 3);
    const [cx, cy] = [radius + draw() * (SIDE - 2 * radius), radius + draw() * (SIDE - 2 * radius)];
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        const [dx, dy] = [Math.abs(x - cx), Math.abs(y - cy)];
        const inside = [
          dx * dx + dy * dy <= radius * radius,
          Math.max(dx, dy) <= radius * 0.85,
          Math.min(dx, dy) <= 1 && Math.max(dx, dy) <= radius,
        ][kind]!;
        pixels[(n * SIDE + y) * SIDE + x] = (inside ? 1 : -1) + (draw() - 0.5) * 0.6;
      }
    }
  }
  return { pixels, kinds };
}

/** Trains for `steps` steps. Returns the losses and the trained model. */
export async function trainConvNet(
  options: { steps?: number; seed?: number; onStep?: (step: number, loss: number) => void } = {},
): Promise<{ losses: number[]; model: ConvNet }> {
  manualSeed(options.seed ?? 0);
  const model = new ConvNet();
  const optimizer = new nn.AdamW(model.parameters(), { lr: 5e-3 });
  const losses: number[] = [];
  const size = 32;
  for (let step = 0; step < (options.steps ?? 160); step++) {
    const { pixels, kinds } = batchOf(step, size);
    using loss = optimizer.step(() =>
      F.crossEntropy(model.call(tensor(pixels, { shape: [size, 1, SIDE, SIDE] })), tensor(kinds)),
    );
    losses.push(await loss.item());
    options.onStep?.(step, losses.at(-1)!);
  }
  optimizer.dispose();
  return { losses, model };
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const device = await Device.create();
  const { losses } = await trainConvNet({
    onStep: (step, loss) => step % 10 === 0 && console.log(`step ${step}  loss ${loss.toFixed(4)}`),
  });
  console.log(`last loss ${losses.at(-1)!.toFixed(4)} (guessing: ${Math.log(CLASSES).toFixed(4)})`);
  device.destroy();
}
