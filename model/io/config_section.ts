/** One object of a config.json, with typed look-ups that say in one line what is wrong. */
import { ConfigError, quote } from "./errors.ts";
import { isJsonObject } from "./json.ts";
import type { JsonObject, JsonValue } from "./json.ts";

/** Sizes beyond this are no model's; it keeps products of two within what a number holds. */
const MAX_SIZE = 2 ** 24;

export class ConfigSection {
  private readonly json: JsonObject;
  private readonly path: string;
  /** Keys that were looked at, and the sections that they opened. */
  private readonly seen = new Set<string>();
  private readonly sections = new Map<string, ConfigSection>();

  constructor(json: JsonObject, path: string) {
    this.json = json;
    this.path = path;
  }

  /** The object under `key`; null if there is none. */
  section(key: string): ConfigSection | null {
    const value = this.value(key);
    if (value === null) return null;
    if (!isJsonObject(value)) throw this.error(key, value, "an object");
    const section = this.sections.get(key) ?? new ConfigSection(value, this.pathOf(key));
    this.sections.set(key, section);
    return section;
  }

  /** Paths of the keys in this section and those opened from it that nobody looked at and that are not `harmless`. */
  unknown(harmless: ReadonlySet<string>): string[] {
    const own = [...this.json.keys()].filter((key) => !this.seen.has(key) && !harmless.has(key));
    const inner = [...this.sections].flatMap(([key, section]) =>
      section.unknown(harmless).map((path) => `${key}.${path}`),
    );
    return [...own, ...inner];
  }

  need(key: string): ConfigSection {
    return this.section(key) ?? this.missing(key);
  }

  text(key: string, fallback?: string): string {
    const value = this.get(key, fallback);
    if (typeof value !== "string") throw this.error(key, value, "a string");
    return value;
  }

  integer(key: string, fallback?: number): number {
    const value = this.get(key, fallback);
    if (typeof value !== "number" || !Number.isInteger(value)) throw this.error(key, value, "a whole number");
    return value;
  }

  /** A whole number from 1 to `most`. */
  whole(key: string, fallback?: number, most = MAX_SIZE): number {
    const value = this.get(key, fallback);
    if (!isWhole(value, most)) throw this.error(key, value, `a whole number from 1 to ${most}`);
    return value;
  }

  /** Null if the key is absent. */
  flag(key: string): boolean | null {
    const value = this.value(key);
    if (value !== null && typeof value !== "boolean") throw this.error(key, value, "true or false");
    return value;
  }

  wholes(key: string, fallback: readonly number[]): readonly number[] {
    const value = this.get(key, [...fallback]);
    const isList =
      Array.isArray(value) && value.length > 0 && value.length <= 8 && value.every((v) => isWhole(v, MAX_SIZE));
    if (!isList) throw this.error(key, value, "a list of 1 to 8 whole numbers from 1 on");
    return value as number[];
  }

  /** Three numbers from `least` on; null if the key is absent. */
  three(key: string, least: number): readonly [number, number, number] | null {
    const value = this.value(key);
    if (value === null) return null;
    const isThree =
      Array.isArray(value) &&
      value.length === 3 &&
      value.every((v) => typeof v === "number" && Number.isFinite(v) && v >= least);
    if (!isThree) throw this.error(key, value, `a list of three numbers from ${least}`);
    return value as unknown as readonly [number, number, number]; // three numbers, by the line above
  }

  positive(key: string, fallback?: number): number {
    const value = this.get(key, fallback);
    if (typeof value !== "number" || !(value > 0) || !Number.isFinite(value))
      throw this.error(key, value, "a number above 0");
    return value;
  }

  /** Throws unless the value is one of `allowed`; null there stands for a key that is absent. */
  require(key: string, allowed: readonly JsonValue[], fallback: JsonValue = null): void {
    const value = this.value(key) ?? fallback;
    if (!allowed.includes(value))
      throw this.error(key, value, `${allowed.map(show).join(" or ")}, other models are not supported`);
  }

  private get(key: string, fallback: JsonValue | undefined): JsonValue {
    return this.value(key) ?? fallback ?? this.missing(key);
  }

  /** The value of a key as it stands; null if it is absent. */
  value(key: string): JsonValue {
    this.seen.add(key);
    return this.json.get(key) ?? null;
  }

  private pathOf(key: string): string {
    return this.path.endsWith(".json") ? `${this.path}: ${key}` : `${this.path}.${key}`;
  }

  private missing(key: string): never {
    throw new ConfigError(`${this.pathOf(key)} is missing; neither the model's name nor its tensors say it`);
  }

  private error(key: string, value: JsonValue, needed: string): ConfigError {
    return new ConfigError(`${this.pathOf(key)} must be ${needed}; got ${show(value)}`);
  }
}

const isWhole = (value: JsonValue, most: number): value is number =>
  typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= most;

function show(value: JsonValue): string {
  if (value === null) return "absent";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (isJsonObject(value)) return "an object";
  return typeof value === "string" ? quote(value) : String(value);
}
