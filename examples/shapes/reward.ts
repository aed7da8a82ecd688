/**
 * A reward command for GRPO: the judge of the shapes. `node scripts/run.mjs examples/shapes/reward.ts PROMPTS.jsonl` reads what was asked for
 * (`Prompt` a line), then a JSON line `{prompt, png}` for each image, and prints 1 if the image shows what its prompt says, else 0.
 */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { readImage } from "../../model/node/image_file.ts";
import type { Prompt } from "./captions.ts";
import { judge } from "./judge.ts";

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error("reward.ts: the file of prompts must be given; got none. Pass its path.");
const prompts = new Map<string, Prompt>();
for (const line of readFileSync(file, "utf8").split("\n")) {
  if (line === "") continue;
  const prompt = JSON.parse(line) as Prompt;
  prompts.set(prompt.text, prompt);
}

for await (const line of createInterface(process.stdin)) {
  const { prompt, png } = JSON.parse(line) as { readonly prompt: string; readonly png: string };
  const asked = prompts.get(prompt);
  if (!asked)
    throw new Error(`reward.ts: every prompt must be in ${file}; got "${prompt}". Pass the file that training reads.`);
  console.log(Number(judge(await readImage(Buffer.from(png, "base64")), asked).correct));
}
