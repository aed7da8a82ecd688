/**
 * A two-layer causal transformer (RMSNorm, rotary positions, SwiGLU: the blocks of the Llama) that learns a rule from its context:
 * every token is the sum of the two before it, modulo 11. Run: `npx tsx examples/transformer.ts`
 */
import { pathToFileURL } from "node:url";
import { Device, F, manualSeed, nn, tensor } from "../index.ts";
import type { Tensor } from "../index.ts";

const MODULUS = 11;
const LENGTH = 16;
const WIDTH = 32;
const HEADS = 2;

class Attention extends nn.Module<readonly [Tensor, Tensor]> {
  readonly qkv = new nn.Linear(WIDTH, 3 * WIDTH, { bias: false });
  readonly proj = new nn.Linear(WIDTH, WIDTH, { bias: false });

  /** x [B, T, C], positions [T] → [B, T, C] */
  forward(x: Tensor, positions: Tensor): Tensor {
    const [batch, length] = [x.dim(0), x.dim(1)];
    const heads = this.qkv
      .call(x)
      .reshape([batch, length, 3, HEADS, WIDTH / HEADS])
      .permute([2, 0, 3, 1, 4]); // [3, B, H, T, D]
    const [q, k, v] = [0, 1, 2].map((i) => heads.select(0, i)) as [Tensor, Tensor, Tensor];
    const mixed = F.attention(F.rope(q, positions), F.rope(k, positions), v, { causal: true }); // [B, H, T, D]
    return this.proj.call(mixed.permute([0, 2, 1, 3]).reshape([batch, length, WIDTH]));
  }
}

class Mlp extends nn.Module {
  readonly gate = new nn.Linear(WIDTH, 2 * WIDTH, { bias: false });
  readonly up = new nn.Linear(WIDTH, 2 * WIDTH, { bias: false });
  readonly down = new nn.Linear(2 * WIDTH, WIDTH, { bias: false });

  forward(x: Tensor): Tensor {
    return this.down.call(F.swiglu(this.gate.call(x), this.up.call(x)));
  }
}

class Block extends nn.Module<readonly [Tensor, Tensor]> {
  readonly norm1 = new nn.RMSNorm(WIDTH);
  readonly attention = new Attention();
  readonly norm2 = new nn.RMSNorm(WIDTH);
  readonly mlp = new Mlp();

  forward(x: Tensor, positions: Tensor): Tensor {
    const h = x.add(this.attention.call(this.norm1.call(x), positions));
    return h.add(this.mlp.call(this.norm2.call(h)));
  }
}

/** ids [B, T] → logits [B, T, 11] */
export class Transformer extends nn.Module {
  readonly embed = new nn.Embedding(MODULUS, WIDTH);
  readonly layers = [new Block(), new Block()];
  readonly norm = new nn.RMSNorm(WIDTH);
  readonly head = new nn.Linear(WIDTH, MODULUS, { bias: false });

  forward(ids: Tensor): Tensor {
    const positions = F.arange(ids.dim(1));
    let x = this.embed.call(ids);
    for (const layer of this.layers) x = layer.call(x, positions);
    return this.head.call(this.norm.call(x));
  }
}

/** One batch of sequences that follow the rule, from a step's own seed. */
function batchOf(step: number, size: number): Int32Array {
  const rows = new Int32Array(size * (LENGTH + 1));
  let state = (step * 2654435761 + 12345) >>> 0;
  const draw = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * MODULUS);
  };
  for (let b = 0; b < size; b++) {
    const at = b * (LENGTH + 1);
    rows[at] = draw();
    rows[at + 1] = draw();
    for (let t = 2; t <= LENGTH; t++) rows[at + t] = (rows[at + t - 1]! + rows[at + t - 2]!) % MODULUS;
  }
  return rows;
}

/** Trains for `steps` steps; the loss is over the tokens that the rule decides. Returns the losses and the trained model. */
export async function trainTransformer(
  options: { steps?: number; seed?: number; onStep?: (step: number, loss: number) => void } = {},
): Promise<{ losses: number[]; model: Transformer }> {
  manualSeed(options.seed ?? 0);
  const model = new Transformer();
  const optimizer = new nn.AdamW(model.parameters(), { lr: 5e-3 });
  const losses: number[] = [];
  const size = 32;
  for (let step = 0; step < (options.steps ?? 300); step++) {
    const rows = batchOf(step, size);
    using loss = optimizer.step(() => {
      const sequences = tensor(rows, { shape: [size, LENGTH + 1] });
      const logits = model.call(sequences.slice(1, 0, LENGTH).contiguous());
      // The second token cannot be known: its target is ignored.
      const targets = tensor(
        rows.map((id, i) => (i % (LENGTH + 1) === 1 ? -100 : id)),
        { shape: [size, LENGTH + 1] },
      ).slice(1, 1);
      return F.crossEntropy(logits.reshape([size * LENGTH, MODULUS]), targets.contiguous().flatten());
    });
    losses.push(await loss.item());
    options.onStep?.(step, losses.at(-1)!);
  }
  optimizer.dispose();
  return { losses, model };
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const device = await Device.create();
  const { losses } = await trainTransformer({
    onStep: (step, loss) => step % 20 === 0 && console.log(`step ${step}  loss ${loss.toFixed(4)}`),
  });
  console.log(`last loss ${losses.at(-1)!.toFixed(4)} (guessing: ${Math.log(MODULUS).toFixed(4)})`);
  device.destroy();
}
