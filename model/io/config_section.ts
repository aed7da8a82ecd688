/** One object of a config.json, with typed look-ups that say in one line what is wrong. */
import { ConfigError, quote } from "./errors.ts";
import { isJsonObject } from "./json.ts";
import type { JsonObject, JsonValue } from "./json.ts";

/** Sizes beyond this are no model's; it keeps products of two within what a number holds. */
const MAX_SIZE = 2 ** 24;

export class ConfigSection {
  private readonly json: JsonObject;
  private readonly path: string;

  constructor(json: JsonObject, path: string) {
    this.json = json;
    this.path = path;
  }

  /** The object under `key`; null if there is none. */
  section(key: string): ConfigSection | null {
    const value = this.json.get(key);
    if (value === undefined || value === null) return null;
    if (!isJsonObject(value)) throw this.error(key, value, "an object");
    return new ConfigSection(value, this.pathOf(key));
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
    const value = this.json.get(key) ?? null;
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

  positive(key: string, fallback?: number): number {
    const value = this.get(key, fallback);
    if (typeof value !== "number" || !(value > 0) || !Number.isFinite(value))
      throw this.error(key, value, "a number above 0");
    return value;
  }

  /** Throws unless the value is one of `allowed`; null there stands for a key that is absent. */
  require(key: string, allowed: readonly JsonValue[], fallback: JsonValue = null): void {
    const value = this.json.get(key) ?? fallback;
    if (!allowed.includes(value))
      throw this.error(key, value, `${allowed.map(show).join(" or ")}, other models are not supported`);
  }

  private get(key: string, fallback: JsonValue | undefined): JsonValue {
    return this.json.get(key) ?? fallback ?? this.missing(key);
  }

  private pathOf(key: string): string {
    return this.path.endsWith(".json") ? `${this.path}: ${key}` : `${this.path}.${key}`;
  }

  private missing(key: string): never {
    throw new ConfigError(`${this.pathOf(key)} is missing, and neither the model's name nor its tensors tell it`);
  }

  private error(key: string, value: JsonValue, needed: string): ConfigError {
    return new ConfigError(`${this.pathOf(key)} is ${show(value)}; needed: ${needed}`);
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
