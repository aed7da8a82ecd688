/** Asks a question about an image: `npx tsx examples/ask.ts MODEL IMAGE QUESTION`. MODEL is a folder, or a name on the Hugging Face hub. */
import { Janus } from "../index.node.ts";

const [model = "deepseek-ai/Janus-Pro-1B", image = "photo.jpg", question = "What is in this image?"] =
  process.argv.slice(2);

using janus = await Janus.fromPretrained(model);
for await (const piece of janus.ask(question, { images: [image], maxNewTokens: 64 })) process.stdout.write(piece);
process.stdout.write("\n");
janus.device.destroy();
