/**
 * Continues a text with a plain Llama, or trains the Llama on the text: `npx tsx examples/llama/run.ts FOLDER "A text"
 * [STEPS]`. FOLDER is in the layout of transformers.
 */
import { Device, nn, scope } from "../../index.node.ts";
import { generateAnswers } from "../../model/answers.ts";
import { loadLlama } from "./llama.ts";
import type { LlamaForCausalLM } from "./llama.ts";

/** Steps of AdamW on texts of token ids; a step's loss is the mean over all predicted tokens. */
export async function trainLlama(model: LlamaForCausalLM, texts: readonly number[][], steps: number, lr: number) {
  using optimizer = new nn.AdamW(model.parameters(), { lr, beta2: 0.95, maxNorm: 1 });
  const predicted = texts.reduce((sum, ids) => sum + ids.length - 1, 0);
  const reports: { loss: number; norm: number }[] = [];
  for (let step = 0; step < steps; step++) {
    let total = 0;
    for (const ids of texts) {
      using loss = scope(() => model.loss(ids).div(predicted));
      loss.backward();
      total += await loss.item();
    }
    optimizer.step();
    reports.push({ loss: total, norm: (await optimizer.report()).gradNorm });
    optimizer.zeroGrad();
  }
  return reports;
}

if (process.argv[1]?.endsWith("run.ts")) {
  const [folder, text, steps = "0"] = process.argv.slice(2);
  if (folder === undefined || text === undefined || !/^\d+$/.test(steps))
    throw new Error('run.ts FOLDER "A text" [STEPS]');
  const device = await Device.create();
  const { model, tokenizer } = await loadLlama(folder, device);
  const ids = tokenizer.encode(text);
  const reports = await trainLlama(model, [[...ids, tokenizer.specials.eos]], Number(steps), 1e-2);
  if (reports.length > 0) console.log(`loss ${reports.map(({ loss }) => loss.toFixed(3)).join(" ")}`);
  const prompts = [{ ids: reports.length > 0 ? ids.slice(0, Math.ceil(ids.length / 3)) : ids }];
  const answer = generateAnswers(model, tokenizer, { prompts, rows: () => prompts }, { maxNewTokens: 64, temperature: 0 }); // prettier-ignore
  for await (const piece of answer) process.stdout.write(piece);
  device.destroy();
}
