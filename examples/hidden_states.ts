/**
 * The bare model below `Janus`: prints the most probable next words at each position of a prompt, and the surprise of
 * the actual next word. `npx tsx examples/hidden_states.ts MODEL TEXT`
 */
import { F, Janus, noGrad, scope, tensor } from "../index.node.ts";

const [folder = "deepseek-ai/Janus-Pro-1B", text = "A picture is worth a thousand words."] = process.argv.slice(2);

using janus = await Janus.fromPretrained(folder);
const { model } = janus;
const { tokenizer } = janus.processor;
const ids = tokenizer.encode(text);

// Modules are called with tensors; a scope frees its tensors at its end, except those that it returns.
const { logProbabilities, best } = noGrad(() =>
  scope(() => {
    const embeddings = model.embedText(tensor(Int32Array.from(ids), { shape: [1, ids.length] })); // [1, T, hidden]
    const hidden = model.hidden(embeddings, { positions: F.arange(ids.length) }); // [1, T, hidden]
    const logits = model.lm_head.call(hidden).squeeze(0); // [T, vocabulary]
    const next = tensor(Int32Array.from(ids.slice(1)), { shape: [ids.length - 1, 1] });
    return {
      logProbabilities: F.gather(F.logSoftmax(logits.slice(0, 0, -1), -1), 1, next).contiguous(),
      best: logits.argmax(1),
    };
  }),
);
const surprise = await logProbabilities.data();
const expected = await best.data();
for (const [i, id] of ids.slice(1).entries()) {
  const [came, guess] = [tokenizer.decode([id]), tokenizer.decode([expected[i]!])];
  console.log(
    `${JSON.stringify(came).padEnd(16)} ${(-surprise[i]!).toFixed(2).padStart(6)} nats, expected ${JSON.stringify(guess)}`,
  );
}
janus.device.destroy();
