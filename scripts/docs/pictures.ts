/**
 * Draws the pictures of the documentation with `shapes`, the model that comes with the package: one PNG file for each
 * prompt below, each pixel enlarged. `node scripts/run.mjs scripts/docs/pictures.ts [FOLDER]`
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import sharp from "sharp";
import { Janus } from "../../index.node.ts";

/** Prompts by the name of their file. */
const PICTURES: Readonly<Record<string, string>> = {
  squares: "two red squares",
  left: "a pink square to the left of a blue triangle",
  above: "a blue ring above a red cross",
  counting: "four orange triangles",
  pair: "a purple square and a cyan circle",
};
const ENLARGED = 128; // pixels; the model draws 32 × 32

export async function drawPictures(folder: string, seed = 7): Promise<string[]> {
  mkdirSync(folder, { recursive: true });
  using janus = await Janus.fromPretrained("shapes");
  const paths: string[] = [];
  for (const [name, prompt] of Object.entries(PICTURES)) {
    const [picture] = await janus.generate(prompt, { seed }).images();
    const { width, height, data } = picture!.image;
    const path = join(folder, `${name}.png`);
    await sharp(data, { raw: { width, height, channels: 3 } })
      .resize(ENLARGED, ENLARGED, { kernel: "nearest" })
      .png({ palette: false })
      .toFile(path);
    paths.push(path);
  }
  janus.device.destroy();
  return paths;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href)
  for (const path of await drawPictures(process.argv[2] ?? "docs/pictures")) console.log(path);
