/** Small files of all nine benchmarks, in the formats that people have, with images of shapes. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { trainingSample } from "../examples/shapes/dataset.ts";
import { png } from "../examples/shapes/dataset_files.ts";
import { render } from "../examples/shapes/scene.ts";

const base64 = (index: number): string =>
  Buffer.from(png(render(trainingSample(5, index).scene, 32))).toString("base64");

function tsv(path: string, head: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  writeFileSync(path, [head, ...rows].map((row) => `${row.join("\t")}\n`).join(""));
}

const KINDS = [
  "OCR",
  "artwork",
  "celebrity",
  "color",
  "count",
  "existence",
  "landmark",
  "position",
  "posters",
  "scene",
];
const TAGS = ["single_object", "two_object", "counting", "colors", "position", "color_attr"];

/** Writes the files into `folder`. MMBench: two questions with two rotations; MME: an image of each kind; POPE: 6 rows over 2 images. */
export function writeBenchmarks(folder: string): void {
  mkdirSync(join(folder, "prompts"), { recursive: true });
  const [one, two] = [base64(0), base64(1)];
  const yesNo = (i: number): string => (i % 2 ? "No" : "Yes");
  tsv(join(folder, "POPE.tsv"), ["index", "image", "question", "answer", "category"],
    [0, 1, 2, 3, 4, 5].map((i) => [i, i === 0 ? one : i === 3 ? two : i < 3 ? 0 : 3, `Is there a ${["circle", "ring", "red square"][i % 3]!} in the image? Please answer yes or no.`, yesNo(i), i === 1 ? "random,popular" : "adversarial"])); // prettier-ignore
  tsv(join(folder, "MME.tsv"), ["index", "image", "question", "answer", "category", "image_path"],
    KINDS.flatMap((kind, k) => [0, 1].map((q) => [2 * k + q, k + q === 0 ? one : 0, `Is there a circle in this image? Please answer yes or no.${q}`, yesNo(q), kind, `${kind}/0.png`]))); // prettier-ignore
  const options = ["index", "image", "question", "hint", "A", "B", "answer", "category"];
  tsv(join(folder, "MMBench_DEV_EN.tsv"), options, [
    [1, one, "Which colour?", "look", "red", "blue", "A", "colour"],
    [2, two, "Which shape?", "", "circle", "square", "B", "shape"],
    [1000001, 1, "Which colour?", "look", "blue", "red", "B", "colour"],
    [1000002, 2, "Which shape?", "", "square", "circle", "A", "shape"],
  ]);
  tsv(join(folder, "SEEDBench_IMG.tsv"), options, [
    [0, one, "Which colour?", "", "red", "blue", "A", "x"],
    [1, "!".repeat(80), "Bad?", "", "red", "blue", "A", "x"],
  ]);
  const line = (value: object): string => `${JSON.stringify(value)}\n`;
  writeFileSync(join(folder, "gqa.jsonl"), [0, 1].map((i) => line({ id: `g${i}`, image: one, question: "What shape is it?", answer: i ? "Circle" : "square" })).join("")); // prettier-ignore
  tsv(
    join(folder, "MMMU_DEV_VAL.tsv"),
    [...options, "split"],
    [
      ["val_1", `['${one}', '${two}']`, "<image 1> and <image 2>: same?", "", "yes", "no", "A", "Art", "validation"],
      ["val_2", one, "How many?", "", "", "", "3", "Math", "validation"],
      ["dev_1", one, "Left out", "", "", "", "3", "Math", "dev"],
    ],
  );
  tsv(join(folder, "MMVet.tsv"), ["index", "image", "question", "answer", "category"], [[0, one, "What is it?", "a circle<OR>a ring", "rec,know"]]); // prettier-ignore
  writeFileSync(join(folder, "evaluation_metadata.jsonl"), TAGS.map((tag) => line({ tag, include: [{ class: "circle", count: 1 }], prompt: "a red circle" })).join("")); // prettier-ignore
  writeFileSync(join(folder, "prompts", "0.txt"), "two blue squares\n");
  writeFileSync(join(folder, "dpg_bench.csv"), "item_id,proposition_id,dependency,tuple,question_natural_language\nz,1,0,global (a),Skipped?\n0,1,0,entity - whole (square),Are there squares?\n0,2,1,attribute - color (square),Are they blue?\n"); // prettier-ignore
}
