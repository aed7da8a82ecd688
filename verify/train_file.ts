/**
 * The training part of a golden folder: of golden.json `train` (settings and results by stage) and `train_rows` (the
 * batch), of golden.safetensors `train{s}.grad.*` and `train{s}.after{n}.*`. Only form is checked here. Source: the
 * README of the fixtures.
 */
import { isJsonObject } from "../model/io/json.ts";
import type { JsonObject, JsonValue } from "../model/io/json.ts";
import { TASKS } from "../train/samples.ts";
import type { Task } from "../train/samples.ts";
import { GoldenError } from "./file.ts";
import type { Golden } from "./file.ts";

/** A row of the batch. Of `gen` the labels are the image codes behind the prompt, else they line up with the ids. */
export interface TrainRow {
  readonly task: Task;
  readonly ids: readonly number[];
  readonly labels: readonly number[];
}

export interface TrainSettings {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  /** The most that the norm of all gradients may be; Infinity for no bound. */
  readonly clip: number;
  readonly weightDecay: number;
}

/** Null is what the file does not say. */
export interface TrainStep {
  readonly loss: number | null;
  readonly gradNorm: number | null;
  /** Means over the trained tokens of a task, and their number, by the file's name of the task. */
  readonly tasks: ReadonlyMap<string, { readonly loss: number | null; readonly tokens: number | null }>;
}

export interface TrainTensor {
  readonly entry: string;
  readonly shape: readonly number[];
  /** Null for gradients of the first step, else after how many steps. */
  readonly after: number | null;
  readonly parameter: string;
}

export interface TrainStage {
  /** The key of golden.json: `train{key}` begins the names of all its values. */
  readonly key: string;
  /** Null if the file has tensors of a stage that golden.json does not name. */
  readonly settings: TrainSettings | null;
  readonly steps: readonly TrainStep[];
  readonly finalLoss: number | null;
  readonly trainable: readonly string[] | null;
  readonly noGrad: readonly string[] | null;
  readonly tensors: readonly TrainTensor[];
  /** Names of entries that mean nothing here. */
  readonly unknown: readonly string[];
}

const TENSOR = /^train(\d+)\.(?:grad|after(\d+))\.(.+)$/s;

/** True if an entry of golden.safetensors is a value of training. */
export const isTrainEntry = (name: string): boolean => TENSOR.test(name);

/** The stages of a folder; throws `GoldenError` if an entry of a known name has another form than it should. */
export function parseStages({ json, tensors, name: folder }: Golden): TrainStage[] {
  const form = new Form(`${folder}/golden.json`);
  const found = new Map<string, TrainTensor[]>([...(json.train?.keys() ?? [])].map((key) => [key, []]));
  for (const { name: entry, shape } of tensors.values()) {
    const match = TENSOR.exec(entry);
    if (!match) continue;
    const [, key, after, parameter] = match as unknown as [string, string, string | undefined, string];
    found.set(key, [...(found.get(key) ?? []), { entry, shape, after: after ? Number(after) : null, parameter }]);
  }
  return [...found].map(([key, own]) =>
    json.train?.has(key)
      ? parseStage(key, form.object(json.train.get(key), `train.${key}`), own, form)
      : {
          key,
          settings: null,
          steps: [],
          finalLoss: null,
          trainable: null,
          noGrad: null,
          tensors: own,
          unknown: [],
        },
  );
}

function parseStage(key: string, content: JsonObject, tensors: readonly TrainTensor[], form: Form): TrainStage {
  const at = (name: string): string => `train.${key}.${name}`;
  const optional = <T>(name: string, read: (value: JsonValue, what: string) => T): T | null =>
    content.has(name) ? read(content.get(name)!, at(name)) : null;
  const unknown: string[] = [];
  const see = (of: JsonObject, known: readonly string[], where = ""): void => {
    for (const name of of.keys()) if (!known.includes(name)) unknown.push(`train${key}.${name}${where}`);
  };
  see(content, ["lr", "betas", "eps", "clip", "weight_decay", "steps", "final_loss", "trainable", "no_grad"]);

  const number = (value: JsonValue | undefined, what: string): number => form.number(value, what);
  const betas = form.list(content.get("betas"), at("betas"));
  if (betas.length !== 2) form.fail(at("betas"), "a pair");
  const steps = (optional("steps", (value, what) => form.list(value, what)) ?? []).map((item, k): TrainStep => {
    const step = form.object(item, at(`steps[${k}]`));
    const value = (name: string): number | null =>
      step.has(name) ? number(step.get(name), at(`steps[${k}].${name}`)) : null;
    see(step, ["loss", "per_task", "grad_norm"], `.step${k + 1}`);
    const tasks = step.has("per_task") ? form.object(step.get("per_task"), at(`steps[${k}].per_task`)) : [];
    return {
      loss: value("loss"),
      gradNorm: value("grad_norm"),
      tasks: new Map(
        [...tasks].map(([task, entry]) => {
          const where = `steps[${k}].per_task.${task}`;
          const one = form.object(entry, at(where));
          see(one, ["loss", "tokens"], `.${task}.step${k + 1}`);
          const of = (name: string): number | null =>
            one.has(name) ? number(one.get(name), at(`${where}.${name}`)) : null;
          return [task, { loss: of("loss"), tokens: of("tokens") }];
        }),
      ),
    };
  });
  return {
    key,
    settings: {
      lr: number(content.get("lr"), at("lr")),
      betas: [number(betas[0], at("betas[0]")), number(betas[1], at("betas[1]"))],
      eps: number(content.get("eps"), at("eps")),
      clip: content.get("clip") === null ? Infinity : number(content.get("clip"), at("clip")),
      weightDecay: optional("weight_decay", number) ?? 0,
    },
    steps,
    finalLoss: optional("final_loss", number),
    trainable: optional("trainable", (value, what) => form.texts(value, what)),
    noGrad: optional("no_grad", (value, what) => form.texts(value, what)),
    tensors,
    unknown,
  };
}

/** The batch; null if golden.json has none. Throws like `parseStages`. */
export function parseBatch({ json, name }: Golden): TrainRow[] | null {
  if (json.trainRows === undefined) return null;
  const form = new Form(`${name}/golden.json`);
  return form.list(json.trainRows, "train_rows").map((item, r) => {
    const row = form.object(item, `train_rows[${r}]`);
    const task = row.get("task");
    if (!isTask(task)) form.fail(`train_rows[${r}].task`, `one of ${TASKS.join(", ")}`);
    const numbers = (key: string): number[] =>
      form
        .list(row.get(key), `train_rows[${r}].${key}`)
        .map((value, i) => form.number(value, `train_rows[${r}].${key}[${i}]`));
    return { task: task as Task, ids: numbers("input_ids"), labels: numbers("labels") };
  });
}

const isTask = (value: JsonValue | undefined): value is Task => TASKS.some((task) => task === value);

/** Values of golden.json in the form they must have. */
class Form {
  private readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  fail(what: string, needed: string): never {
    throw new GoldenError(`${this.file}: ${what} is not ${needed}`);
  }

  object(value: JsonValue | undefined, what: string): JsonObject {
    return isJsonObject(value) ? value : this.fail(what, "an object");
  }

  list(value: JsonValue | undefined, what: string): JsonValue[] {
    return Array.isArray(value) ? value : this.fail(what, "a list");
  }

  number(value: JsonValue | undefined, what: string): number {
    return typeof value === "number" ? value : this.fail(what, "a number");
  }

  texts(value: JsonValue | undefined, what: string): string[] {
    return this.list(value, what).map((item, i) =>
      typeof item === "string" ? item : this.fail(`${what}[${i}]`, "a text"),
    );
  }
}
