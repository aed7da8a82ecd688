/**
 * Golden values of training: gradients, parameters after AdamW steps, losses. Nobody computes them yet; when the trainer does, its rows
 * take the place of these.
 */
import { isJsonObject } from "../../model/checkpoint/json.ts";
import type { JsonObject, JsonValue } from "../../model/checkpoint/json.ts";
import { notComputed } from "./compare.ts";
import type { Row } from "./compare.ts";
import type { Golden } from "./file.ts";

const NOTE = "the trainer computes these";
const TENSOR = /^train\d+\.(grad|after\d+)\../;
/** Of a stage of golden.json: what the trainer is told, no values. */
const SETTINGS = ["lr", "betas", "eps", "clip", "weight_decay"];

/** Whether an entry of golden.safetensors is one of these. */
export const isTrainEntry = (name: string): boolean => TENSOR.test(name);

/** Which stage a row belongs to, for printing; null for rows of other things. */
export const trainStage = ({ entry, note }: Row): string | null =>
  note === NOTE ? /^train[^.]+/.exec(entry)![0] : null;

/** A row for every value of training. Steps count from 1. */
export function trainRows({ json, tensors }: Golden): Row[] {
  const rows: Row[] = [];
  for (const [stage, content] of json.train ?? []) {
    const at = (key: string): string => `train${stage}.${key}`;
    if (!isJsonObject(content)) {
      rows.push(notComputed(`train${stage}`, null, "not known"));
      continue;
    }
    const value = (name: string, of: JsonValue): void =>
      void rows.push(
        typeof of === "number"
          ? notComputed(name, [], NOTE)
          : Array.isArray(of)
            ? notComputed(name, [of.length], NOTE)
            : notComputed(name, null, "not known"),
      );
    for (const [key, of] of content) {
      if (SETTINGS.includes(key)) continue;
      if (key !== "steps" || !Array.isArray(of)) value(at(key), of);
      else
        for (const [k, step] of of.entries())
          if (isJsonObject(step)) stepValues(step, (name, number) => value(at(`${name}.step${k + 1}`), number));
    }
  }
  for (const { name, shape } of tensors.values()) if (isTrainEntry(name)) rows.push(notComputed(name, shape, NOTE));
  return rows.sort((a, b) => a.entry.localeCompare(b.entry, "en", { numeric: true }));
}

/** `loss`, `grad_norm`, and of each task `loss.{task}`, `tokens.{task}`. */
function stepValues(step: JsonObject, see: (name: string, value: JsonValue) => void): void {
  for (const [key, value] of step) {
    if (key !== "per_task" || !isJsonObject(value)) see(key, value);
    else
      for (const [task, of] of value)
        if (isJsonObject(of)) for (const [name, number] of of) see(`${name}.${task}`, number);
  }
}
