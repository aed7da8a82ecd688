/**
 * Measures the accuracy of the judge on images with known contents: `npx tsx examples/shapes/measure.ts [--count N]
 * [--seed N] [--sheets FOLDER]`. Prints accuracy and false positives by kind and the confusion tables of shapes and
 * colours, for clean and for degraded images; with --sheets it writes images of each kind with their captions to look
 * at.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import sharp from "sharp";
import type { OverlayOptions } from "sharp";
import type { RgbImage } from "../../model/image/image.ts";
import { KINDS, randomPrompt, randomScene, sceneFor } from "./captions.ts";
import type { Clause, Kind, Prompt } from "./captions.ts";
import { degrade } from "./degrade.ts";
import { Dice } from "./dice.ts";
import { detect, judge, judgeSeen } from "./judge.ts";
import type { Detection } from "./judge.ts";
import { COLOURS, OPPOSITE, PALETTE, SHAPES, render } from "./scene.ts";
import type { Scene } from "./scene.ts";
import { holds } from "./truth.ts";

export async function jpeg({ width, height, data }: RgbImage, quality = 40): Promise<RgbImage> {
  const file = await sharp(data, { raw: { width, height, channels: 3 } })
    .jpeg({ quality })
    .toBuffer();
  return { width, height, data: new Uint8Array(await sharp(file).raw().toBuffer()) };
}

/** Blocks, noise, shifted colours, then JPEG. */
export const worn = (image: RgbImage, dice: Dice): Promise<RgbImage> => jpeg(degrade(image, dice));

export interface Figures {
  readonly accuracy: Readonly<Record<Kind, number>>;
  /** Share judged correct of the images made for another prompt, near or far, that do not fit this one. */
  readonly falsePositives: Readonly<Record<Kind, number>>;
  readonly mistakes: readonly string[];
}

/** A prompt that the image of this one just misses: another shape, one more or fewer, the next colour, the other side, colours swapped. */
function nearMiss({ kind, include }: Prompt): Pick<Prompt, "include" | "exclude"> {
  const next = <T>(list: readonly T[], item: T): T => list[(list.indexOf(item) + 1) % list.length]!;
  const [first, second] = include as readonly [Clause, Clause];
  const exclude: Clause[] = [];
  switch (kind) {
    case "single_object":
      return { include: [{ ...first, shape: next(SHAPES, first.shape) }], exclude };
    case "two_object":
      return { include: [first, { ...second, shape: next(SHAPES, second.shape) }], exclude };
    case "counting": {
      const count = first.count === 2 ? 3 : first.count - 1;
      return { include: [{ ...first, count }], exclude: [{ ...first, count: count + 1 }] };
    }
    case "colors":
      return { include: [{ ...first, colour: next(COLOURS, first.colour!) }], exclude };
    case "position":
      return { include: [first, { ...second, position: [OPPOSITE[second.position![0]], 0] }], exclude };
    case "color_attr":
      return {
        include: [
          { ...first, colour: second.colour! },
          { ...second, colour: first.colour! },
        ],
        exclude,
      };
  }
}

/** `count` prompts per kind, half of them held out, each with its own image, with that of the one before it, and with a prompt that it just misses. */
export async function measure(
  seed: number,
  count: number,
  wear: (image: RgbImage, dice: Dice) => RgbImage | Promise<RgbImage>,
): Promise<Figures> {
  const accuracy: Partial<Record<Kind, number>> = {};
  const falsePositives: Partial<Record<Kind, number>> = {};
  const mistakes: string[] = [];
  for (const [k, kind] of KINDS.entries()) {
    let [right, wrongly, others] = [0, 0, 0];
    let before: { scene: Scene; seen: Detection } | undefined;
    for (let n = 0; n < count; n++) {
      const dice = new Dice(seed, 100 + k, n);
      const heldOut = n % 2 === 1;
      const prompt = randomPrompt(dice, kind, { heldOut });
      const scene = sceneFor(dice, prompt, { heldOut, grid: n % 3 ? 4 : 1 });
      const seen = detect(await wear(render(scene), dice));
      const verdict = judgeSeen(seen, prompt);
      if (verdict.exact) right++;
      else mistakes.push(`${kind} "${prompt.text}": ${verdict.reason}; ${JSON.stringify(scene)}`);
      const wrong = [{ scene, seen, asked: nearMiss(prompt) }];
      if (before) wrong.push({ ...before, asked: prompt });
      for (const { scene: shown, seen: found, asked } of wrong) {
        if (holds(shown, asked)) continue;
        others++;
        if (judgeSeen(found, asked).correct) wrongly++;
      }
      before = { scene, seen };
    }
    accuracy[kind] = right / count;
    falsePositives[kind] = others ? wrongly / others : 0;
  }
  return { accuracy, falsePositives, mistakes } as Figures;
}

/** Confusion matrices of shapes and of colours: true (row) and recognised (column); the last column is "none". */
export async function confusions(
  seed: number,
  count: number,
  wear: (image: RgbImage, dice: Dice) => RgbImage | Promise<RgbImage>,
): Promise<{ shapes: number[][]; colours: number[][]; fits: number[]; margins: number[]; miscounted: number }> {
  const table = (names: readonly string[]): number[][] => names.map(() => new Array<number>(names.length + 1).fill(0));
  const [shapes, colours] = [table(SHAPES), table(COLOURS)];
  const fits: number[] = [];
  const margins: number[] = [];
  let miscounted = 0;
  for (let n = 0; n < count; n++) {
    const dice = new Dice(seed, 99, n);
    const scene = randomScene(dice, { heldOut: true, grid: n % 3 ? 4 : 1 });
    const { seen } = detect(await wear(render(scene), dice));
    if (seen.length !== scene.objects.length) miscounted++;
    for (const object of scene.objects) {
      const match = seen.find((other) => Math.hypot(other.x - object.x, other.y - object.y) < 8);
      const row = SHAPES.indexOf(object.shape);
      const column = match?.shape ? SHAPES.indexOf(match.shape) : SHAPES.length;
      shapes[row]![column]!++;
      colours[COLOURS.indexOf(object.colour)]![match?.colour ? COLOURS.indexOf(match.colour) : COLOURS.length]!++;
      if (match) fits.push(match.fit);
      if (match) margins.push(match.margin);
    }
  }
  return { shapes, colours, fits, margins, miscounted };
}

/** Shapes that have no name here, in coordinates of −1 to 1: the judge must not call them by one. */
export const STRANGERS: Readonly<Record<string, (x: number, y: number) => boolean>> = {
  bar: (x, y) => Math.abs(x) < 1 && Math.abs(y) < 0.4,
  "rectangle 2:3": (x, y) => Math.abs(x) < 1 && Math.abs(y) < 0.66,
  "ellipse 1:2": (x, y) => x ** 2 + (2 * y) ** 2 < 1,
  "half disc": (x, y) => x ** 2 + y ** 2 < 1 && y > 0,
  "three quarters": (x, y) => x ** 2 + y ** 2 < 1 && !(x > 0 && y < 0),
  angle: (x, y) => Math.max(Math.abs(x), Math.abs(y)) < 1 && (x < -0.2 || y > 0.2),
  "triangle head down": (x, y) => Math.abs(x) < (1 - y) / 2 && Math.abs(y) < 1,
  "half cross": (x, y) => Math.max(Math.abs(x), Math.abs(y)) < 1 && (Math.abs(x) < 0.3 || (Math.abs(y) < 0.3 && x < 0)),
  "broken ring": (x, y) => Math.hypot(x, y) < 1 && Math.hypot(x, y) > 0.52 && !(Math.abs(y) < 0.35 && x > 0),
  "two discs in one": (x, y) => Math.min(Math.hypot(x - 0.45, y), Math.hypot(x + 0.45, y)) < 0.55,
};

export function stranger(dice: Dice, inside: (x: number, y: number) => boolean): RgbImage {
  const base = render({ background: dice.pick(["white", "black"]), objects: [] });
  const [radius, cx, cy] = [dice.between(11, 15), dice.between(20, 44), dice.between(20, 44)];
  const ink = PALETTE[dice.pick(COLOURS)];
  base.data.forEach((level, k) => {
    const [column, row] = [Math.floor(k / 3) % 64, Math.floor(k / 192)];
    let cover = 0;
    for (let s = 0; s < 16; s++) {
      if (inside((column + ((s % 4) + 0.5) / 4 - cx) / radius, (row + (Math.floor(s / 4) + 0.5) / 4 - cy) / radius))
        cover += 1 / 16;
    }
    base.data[k] = Math.round(level * (1 - cover) + ink[k % 3]! * cover);
  });
  return base;
}

/** Shares of images of noise, of nothing, of random blocks and of strangers in which any shape is named. */
export function nonsense(seed: number, count: number): Record<string, number> {
  const flat = (dice: Dice): RgbImage => {
    const rgb = [dice.int(256), dice.int(256), dice.int(256)];
    return { width: 64, height: 64, data: Uint8Array.from({ length: 64 * 64 * 3 }, (_, i) => rgb[i % 3]!) };
  };
  const kinds: Record<string, (dice: Dice) => RgbImage> = {
    noise: (dice) => ({ width: 64, height: 64, data: Uint8Array.from({ length: 64 * 64 * 3 }, () => dice.int(256)) }),
    empty: flat,
    "noisy empty": (dice) => degrade(flat(dice), dice),
    // Tokens drawn at random: flat blocks, half of them background.
    blocks: (dice) => {
      const cells = Array.from({ length: 64 }, () =>
        dice.chance(0.5) ? [255, 255, 255] : [dice.int(256), dice.int(256), dice.int(256)],
      );
      return { width: 64, height: 64, data: Uint8Array.from({ length: 64 * 64 * 3 }, (_, i) => cells[(Math.floor(i / 3 / 64 / 8) * 8 + Math.floor(((i / 3) % 64) / 8))]![i % 3]!) }; // prettier-ignore
    },
  };
  for (const [name, inside] of Object.entries(STRANGERS)) kinds[name] = (dice) => stranger(dice, inside);
  return Object.fromEntries(
    Object.entries(kinds).map(([name, make], stream) => {
      let correct = 0;
      for (let n = 0; n < count; n++) {
        const dice = new Dice(seed, 200 + stream, n);
        const image = make(dice);
        // Any of the shapes would be a false name.
        if (detect(image).seen.some(({ shape }) => shape !== undefined)) correct++;
      }
      return [name, correct / count];
    }),
  );
}

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`.padStart(9);

function printTable(names: readonly string[], rows: readonly (readonly number[])[]): void {
  console.log(`${"".padEnd(10)}${[...names, "none"].map((name) => name.padStart(9)).join("")}`);
  rows.forEach((row, i) => {
    const sum = row.reduce((a, b) => a + b, 0) || 1;
    console.log(`${names[i]!.padEnd(10)}${row.map((n) => (n ? percent(n / sum) : "".padStart(9))).join("")}`);
  });
}

/** Rows of `perKind` images with what they show written below. */
async function sheet(
  path: string,
  seed: number,
  perKind: number,
  wear: (image: RgbImage, dice: Dice) => RgbImage | Promise<RgbImage>,
): Promise<void> {
  const cell = 190;
  const row = 222;
  const layers: OverlayOptions[] = [];
  let text = "";
  for (const [k, kind] of KINDS.entries()) {
    for (let n = 0; n < perKind; n++) {
      const dice = new Dice(seed, 300 + k, n);
      const prompt = randomPrompt(dice, kind, { heldOut: n % 2 === 1 });
      const image = await wear(render(sceneFor(dice, prompt, { heldOut: n % 2 === 1 })), dice);
      const verdict = judge(image, prompt);
      const { width, height } = image;
      const input = await sharp(image.data, { raw: { width, height, channels: 3 } }).resize(cell, cell, { kernel: "nearest" }).png().toBuffer(); // prettier-ignore
      layers.push({ input, left: n * (cell + 10), top: k * row });
      const line = `${prompt.text}${verdict.exact ? "" : ` [${verdict.reason}]`}`;
      text += `<text x="${n * (cell + 10) + 2}" y="${k * row + cell + 14}" font-family="sans-serif" font-size="11">${line}</text>`;
      console.log(`${kind.padEnd(14)} ${n}  ${line}`);
    }
  }
  const [width, height] = [perKind * (cell + 10), KINDS.length * row];
  layers.push({
    input: Buffer.from(`<svg width="${width}" height="${height}" xmlns="http://www.w3.org/2000/svg">${text}</svg>`),
  });
  await sharp({ create: { width, height, channels: 3, background: "#bbb" } }).composite(layers).png().toFile(path); // prettier-ignore
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      count: { type: "string", default: "500" },
      seed: { type: "string", default: "1" },
      sheets: { type: "string" },
      mistakes: { type: "boolean", default: false },
    },
  });
  const [count, seed] = [Number(values.count), Number(values.seed)];
  for (const [name, wear] of [
    ["clean", (image: RgbImage) => image],
    ["degraded", worn],
  ] as const) {
    console.log(`\n${name}, ${count} prompts a kind`);
    const { accuracy, falsePositives, mistakes } = await measure(seed, count, wear);
    for (const kind of KINDS) console.log(`${kind.padEnd(14)} exact ${percent(accuracy[kind])}   false positives ${percent(falsePositives[kind])}`); // prettier-ignore
    if (values.mistakes) await writeFile(`mistakes-${name}.txt`, mistakes.join("\n"));
    const { shapes, colours, fits, margins, miscounted } = await confusions(seed, count * 2, wear);
    printTable(SHAPES, shapes);
    printTable(COLOURS, colours);
    const at = (list: number[], share: number): string => list.sort((a, b) => a - b)[Math.floor(share * list.length)]!.toFixed(3); // prettier-ignore
    console.log(`fit of the best shape: lowest ${at(fits, 0)}, 0.1 % ${at(fits, 0.001)}, 1 % ${at(fits, 0.01)}, half ${at(fits, 0.5)}; its margin: 0.1 % ${at(margins, 0.001)}, 1 % ${at(margins, 0.01)}; ${miscounted} of ${count * 2} scenes miscounted`); // prettier-ignore
    if (values.sheets) {
      await mkdir(values.sheets, { recursive: true });
      await sheet(`${values.sheets}/${name}.png`, seed, 6, wear);
    }
  }
  console.log("\na shape recognised although there is none:", nonsense(seed, Math.min(count, 200)));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main();
