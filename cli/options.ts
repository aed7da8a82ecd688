/** Checks of option values, for commander, which shows their errors with the name of the option. */
import { InvalidArgumentError, Option } from "commander";

const range = (min: number, max: number): string =>
  min === -Infinity && max === Infinity
    ? ""
    : max === Infinity
      ? ` of at least ${min}`
      : min === -Infinity
        ? ` of at most ${max}`
        : ` from ${min} to ${max}`;

function parse(text: string, kind: string, isValid: (value: number) => boolean): number {
  // Number() takes "", "0x10" and " 1 " too.
  const isDecimal = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text);
  const value = Number(text);
  if (!isDecimal || !isValid(value)) throw new InvalidArgumentError(`It must be ${kind}.`);
  return value;
}

/** `new Option("--tokens <n>").argParser(wholeNumber(1, 16384))` */
export const wholeNumber =
  (min = 0, max = Infinity): ((text: string) => number) =>
  (text) =>
    parse(text, `a whole number${range(min, max)}`, (n) => Number.isSafeInteger(n) && n >= min && n <= max);

export const numberIn =
  (min = -Infinity, max = Infinity): ((text: string) => number) =>
  (text) =>
    parse(text, `a number${range(min, max)}`, (n) => Number.isFinite(n) && n >= min && n <= max);

const UNITS: Readonly<Record<string, number>> = { M: 1e6, G: 1e9, Mi: 2 ** 20, Gi: 2 ** 30 };

/** A number of bytes: 12GB, 12 GiB, 800MB. */
export function memorySize(text: string): number {
  const [, number, unit] = /^(\d+\.?\d*)\s*([MG]i?)B$/i.exec(text.trim()) ?? [];
  const factor = Object.entries(UNITS).find(([name]) => name.toLowerCase() === unit?.toLowerCase())?.[1];
  if (number === undefined || !factor || !(Number(number) > 0))
    throw new InvalidArgumentError("It must be a size such as 12GB, 12GiB or 800MB.");
  return Math.floor(Number(number) * factor);
}

/** For an option that may be given several times, with one value each: one with several values would take the arguments behind it too. */
export const collect = (text: string, before: readonly string[] = []): readonly string[] => [...before, text];

/** Names of fields by what they are used as. */
export type FieldFlags = Readonly<Record<string, readonly string[]>>;

/** Adds `use=name` to the names that were given before. */
function fieldName(text: string, names: FieldFlags = {}): FieldFlags {
  const [, use, name] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (use === undefined || name === undefined)
    throw new InvalidArgumentError("Write what it is used as and its name, e.g. prompt=TEXT.");
  return { ...names, [use]: [...(names[use] ?? []), name] };
}

export const fieldOption = (note = ""): Option =>
  new Option(
    "--field <use=name>",
    `use the field or column NAME as prompt, image, text, …, e.g. prompt=TEXT; may be repeated${note && `. ${note}`}`,
  ).argParser(fieldName);

/** An adapter: its position in the list of `janus doctor`, or part of its name. */
export const adapter = (text: string): string | number => (/^\d+$/.test(text) ? Number(text) : text);

export const adapterOption = (): Option =>
  new Option(
    "--adapter <adapter>",
    "GPU adapter: its number in the list of janus doctor, or part of its name (default: the fastest)",
  ).argParser(adapter);

/** An adapter on the command line: its folder, and the factor of its update. */
export interface LoraFlag {
  readonly folder: string;
  readonly weight: number;
}

/** Parses `folder` or `folder:weight`. */
export function parseLora(text: string, before: readonly LoraFlag[] = []): readonly LoraFlag[] {
  const [, folder = text, weight] = /^(.+):([^:/\\]*)$/.exec(text) ?? [];
  if (folder === "") throw new InvalidArgumentError("It must name a folder.");
  return [...before, { folder, weight: weight === undefined ? 1 : parse(weight, "a folder, or a folder, : and a number", Number.isFinite) }]; // prettier-ignore
}

export const loraOption = (): Option =>
  new Option(
    "--lora <folder[:weight]>",
    "apply a LoRA adapter (a folder in PEFT's layout, or a checkpoint of a run with lora), its update multiplied by the weight (default: 1); may be repeated",
  ).argParser(parseLora);

export const quantizeOption = (): Option =>
  new Option(
    "--quantize <kind>",
    "quantise the language model's layers and both heads while loading, to 8 or 4 bits a weight (default: no)",
  ).choices(["int8", "int4"]);

export const kvCacheOption = (): Option =>
  new Option(
    "--kv-cache <dtype>",
    "dtype of the cache of keys and values: bf16 and f16 take half the memory of f32, int8 takes 27 %; smaller ones are less precise (default: f32)",
  ).choices(["f32", "f16", "bf16", "int8"]);

export const dtypeOption = (): Option =>
  new Option("--dtype <dtype>", "dtype of the weights on the device (default: that of the checkpoint)").choices([
    "f32",
    "f16",
    "bf16",
  ]);
