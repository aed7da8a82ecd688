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

/** For an option that may be given several times, with one value each: one with several values would take the arguments behind it too. */
export const collect = (text: string, before: readonly string[] = []): readonly string[] => [...before, text];

/** An adapter: its position in the list of `janus doctor`, or part of its name. */
export const adapter = (text: string): string | number => (/^\d+$/.test(text) ? Number(text) : text);

export const adapterOption = (): Option =>
  new Option(
    "--adapter <adapter>",
    "GPU adapter: its number in the list of janus doctor, or part of its name (default: the fastest)",
  ).argParser(adapter);

export const quantizeOption = (): Option =>
  new Option(
    "--quantize <kind>",
    "quantise the language model's layers and both heads while loading, to 8 or 4 bits a weight (default: no)",
  ).choices(["int8", "int4"]);

export const dtypeOption = (): Option =>
  new Option("--dtype <dtype>", "dtype of the weights on the device (default: that of the checkpoint)").choices([
    "f32",
    "f16",
    "bf16",
  ]);
