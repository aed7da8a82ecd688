/** Generates four images of a prompt together: `npx tsx examples/draw.ts MODEL PROMPT FOLDER`. MODEL is a folder, or a name on the hub. */
import { mkdirSync } from "node:fs";
import { Janus, savePicture } from "../index.node.ts";

mkdirSync(process.argv[4] ?? ".", { recursive: true });
const [model = "deepseek-ai/Janus-Pro-1B", prompt = "a red circle on the left of a blue square", folder = "."] =
  process.argv.slice(2);

using janus = await Janus.fromPretrained(model);
for await (const event of janus.generate(prompt, { n: 4, seed: 1 })) {
  if (event.type === "progress") process.stderr.write(`\r${event.done} of ${event.total} tokens`);
  else await savePicture(`${folder}/picture-${event.index}.png`, event.picture);
}
process.stderr.write("\n");
janus.device.destroy();
