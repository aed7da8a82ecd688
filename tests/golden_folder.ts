/** Copies of the fixtures' golden folder with changed files. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encodeSafetensors } from "../model/io/safetensors.ts";
import { tensorsOf } from "./checkpoint/tiny.ts";
import type { Whole } from "./checkpoint/tiny.ts";

export type GoldenJson = Record<string, unknown>;
export type GoldenChange = (tensors: Map<string, Whole>, json: GoldenJson, folder: string) => void;

const PICTURES = ["image0.png", "image1.png", "image2.png", "image3.png"];

/** Writes the golden folder `from` to `folder` as `change` leaves it. */
export async function writeGolden(from: string, folder: string, change: GoldenChange): Promise<void> {
  mkdirSync(folder, { recursive: true });
  for (const name of PICTURES) cpSync(join(from, name), join(folder, name));
  const tensors = await tensorsOf(new Uint8Array(readFileSync(join(from, "golden.safetensors"))));
  const json = JSON.parse(readFileSync(join(from, "golden.json"), "utf8")) as GoldenJson;
  change(tensors, json, folder);
  writeFileSync(join(folder, "golden.safetensors"), encodeSafetensors([...tensors.values()]));
  writeFileSync(join(folder, "golden.json"), JSON.stringify(json));
}

/** Takes the rows of training out, which take most of the time. */
export function withoutTraining(tensors: Map<string, Whole>, json: GoldenJson): void {
  for (const name of tensors.keys()) if (name.startsWith("train")) tensors.delete(name);
  delete json["train"];
  delete json["train_rows"];
}
