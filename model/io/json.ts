/**
 * A strict reader of JSON (RFC 8259) from bytes. Unlike `JSON.parse` it refuses duplicate keys, integers that a number cannot hold,
 * lone surrogates and deep nesting; objects come as Maps, so that no key is special. Its caller may take values one by one, without
 * a tree of them.
 */
import { JsonError, quote } from "./errors.ts";

export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject;
export type JsonObject = ReadonlyMap<string, JsonValue>;

const MAX_DEPTH = 64;
const MAX_NUMBER = 400; // characters

export interface JsonLimits {
  /** Most keys of all objects together: the duplicate check must not outgrow the text. */
  readonly keys: number;
  /** Elements of all arrays together. */
  readonly elements: number;
}

const LIMITS: JsonLimits = { keys: 100_000, elements: 1_000_000 };
const code = (c: string): number => c.charCodeAt(0);
const [QUOTE, BACKSLASH, COMMA, COLON] = [code('"'), code("\\"), code(","), code(":")];
const [OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY] = [code("{"), code("}"), code("["), code("]")];
const WORDS: ReadonlyMap<number, [string, null | boolean]> = new Map([
  [code("n"), ["null", null]],
  [code("t"), ["true", true]],
  [code("f"), ["false", false]],
]);
const ESCAPES: ReadonlyMap<number, number> = new Map(
  (
    [
      ['"', '"'],
      ["\\", "\\"],
      ["/", "/"],
      ["b", "\b"],
      ["f", "\f"],
      ["n", "\n"],
      ["r", "\r"],
      ["t", "\t"],
    ] as const
  ).map(([letter, is]) => [code(letter), code(is)]),
);
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export class JsonReader {
  private readonly bytes: Uint8Array;
  private readonly name: string;
  private at = 0;
  private depth = 0;
  private keys = 0;
  private elements = 0;
  private readonly limits: JsonLimits;

  /** `name` stands in front of messages. */
  constructor(bytes: Uint8Array, name: string, limits = LIMITS) {
    this.bytes = bytes;
    this.name = name;
    this.limits = limits;
  }

  fail(message: string): never {
    throw new JsonError(`${this.name}: ${message} (byte ${this.at})`);
  }

  /** An object: `each` must read the value of the key it is given. */
  object(each: (key: string) => void): void {
    this.expect(OPEN_OBJECT, "an object");
    this.enter();
    const seen = new Set<string>();
    for (let first = true; !this.closes(CLOSE_OBJECT, first); first = false) {
      if (this.peek() !== QUOTE) this.fail("an object needs a key in quotes");
      const key = this.string();
      if (seen.has(key)) this.fail(`the key ${quote(key)} stands twice in one object`);
      seen.add(key);
      if (++this.keys > this.limits.keys) this.fail(`more than ${this.limits.keys} keys`);
      if (this.peek() !== COLON) this.fail(`":" after the key ${quote(key)} is missing`);
      this.at++;
      each(key);
    }
    this.depth--;
  }

  /** An array: `each` must read one element. */
  array(each: (index: number) => void): void {
    this.expect(OPEN_ARRAY, "an array");
    this.enter();
    for (let i = 0; !this.closes(CLOSE_ARRAY, i === 0); i++) {
      if (++this.elements > this.limits.elements) this.fail(`more than ${this.limits.elements} elements`);
      each(i);
    }
    this.depth--;
  }

  string(): string {
    this.expect(QUOTE, "a string");
    const start = this.at;
    let escaped = false;
    for (;;) {
      const c = this.bytes[this.at];
      if (c === undefined) this.fail("a string is not closed");
      if (c === QUOTE) break;
      if (c < 0x20) this.fail("a control character in a string must be escaped");
      if (c === BACKSLASH) {
        escaped = true;
        this.at++;
      }
      this.at++;
    }
    const raw = this.bytes.subarray(start, this.at);
    const text = escaped ? this.unescape(raw) : this.decode(raw);
    this.at++;
    return text;
  }

  /** A whole number of at least 0, as digits only. */
  whole(what: () => string): number {
    const token = this.numberToken();
    const value = Number(token);
    if (!/^(0|[1-9][0-9]*)$/.test(token))
      this.fail(`${what()} is ${token || "no number"}; a whole number of at least 0`);
    if (!Number.isSafeInteger(value)) this.fail(`${what()} is ${token}, more than 2^53 − 1`);
    return value;
  }

  number(): number {
    const token = this.numberToken();
    if (!/^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/.test(token)) this.fail(`${quote(token)} is not a number`);
    const value = Number(token);
    if (!Number.isFinite(value)) this.fail(`the number ${token} is out of range`);
    if (/^-?[0-9]+$/.test(token) && !Number.isSafeInteger(value)) this.fail(`the integer ${token} is beyond 2^53 − 1`);
    return value;
  }

  value(): JsonValue {
    const c = this.peek();
    if (c === OPEN_OBJECT) {
      const object = new Map<string, JsonValue>();
      this.object((key) => object.set(key, this.value()));
      return object;
    }
    if (c === OPEN_ARRAY) {
      const array: JsonValue[] = [];
      this.array(() => array.push(this.value()));
      return array;
    }
    if (c === QUOTE) return this.string();
    return WORDS.has(c) ? this.word(c) : this.number();
  }

  /** Reads a value, checks it and forgets it. */
  skip(): void {
    const c = this.peek();
    if (c === OPEN_OBJECT) this.object(() => this.skip());
    else if (c === OPEN_ARRAY) this.array(() => this.skip());
    else this.value();
  }

  /** Throws unless nothing but white space is left. */
  end(): void {
    this.space();
    if (this.at < this.bytes.length) this.fail("there is more after the end of the JSON value");
  }

  private word(c: number): null | boolean {
    const [text, value] = WORDS.get(c)!;
    for (let i = 0; i < text.length; i++) {
      if (this.bytes[this.at + i] !== text.charCodeAt(i)) this.fail(`a word that is not ${text}`);
    }
    this.at += text.length;
    return value;
  }

  private numberToken(): string {
    this.space();
    const start = this.at;
    let c = this.bytes[this.at];
    // Everything that may stand in a number; the caller checks the order.
    while (
      c !== undefined &&
      ((c >= 0x30 && c <= 0x39) || c === 0x2b || c === 0x2d || c === 0x2e || c === 0x45 || c === 0x65)
    ) {
      if (++this.at - start > MAX_NUMBER) this.fail(`a number of more than ${MAX_NUMBER} characters`);
      c = this.bytes[this.at];
    }
    if (this.at === start)
      this.fail(c === undefined ? "the text ends early" : `unexpected ${quote(String.fromCharCode(c))}`);
    return String.fromCharCode(...this.bytes.subarray(start, this.at));
  }

  private decode(raw: Uint8Array): string {
    try {
      return utf8.decode(raw);
    } catch {
      return this.fail("a string is not UTF-8");
    }
  }

  /** Text with escapes: rewritten as UTF-8 in place of the same length or less, then decoded at once. */
  private unescape(raw: Uint8Array): string {
    const out = new Uint8Array(raw.length);
    let n = 0;
    for (let i = 0; i < raw.length; i++) {
      if (raw[i] !== BACKSLASH) {
        out[n++] = raw[i]!;
        continue;
      }
      const letter = raw[++i]!;
      if (letter !== code("u")) {
        const c = ESCAPES.get(letter);
        if (c === undefined) this.fail(`unknown escape \\${String.fromCharCode(letter)}`);
        out[n++] = c;
        continue;
      }
      let point = this.hex(raw, i + 1);
      i += 4;
      if (point >= 0xd800 && point <= 0xdfff) {
        const low = raw[i + 1] === BACKSLASH && raw[i + 2] === code("u") ? this.hex(raw, i + 3) : 0;
        if (point > 0xdbff || low < 0xdc00 || low > 0xdfff) this.fail("half of a surrogate pair in a string");
        point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
        i += 6;
      }
      if (point < 0x80) out[n++] = point;
      else if (point < 0x800) {
        out[n++] = 0xc0 | (point >> 6);
        out[n++] = 0x80 | (point & 63);
      } else if (point < 0x10000) {
        out[n++] = 0xe0 | (point >> 12);
        out[n++] = 0x80 | ((point >> 6) & 63);
        out[n++] = 0x80 | (point & 63);
      } else {
        out[n++] = 0xf0 | (point >> 18);
        out[n++] = 0x80 | ((point >> 12) & 63);
        out[n++] = 0x80 | ((point >> 6) & 63);
        out[n++] = 0x80 | (point & 63);
      }
    }
    return this.decode(out.subarray(0, n));
  }

  private hex(raw: Uint8Array, at: number): number {
    let value = 0;
    for (let i = at; i < at + 4; i++) {
      const c = raw[i] ?? 0;
      const lower = c | 0x20;
      const isDigit = c >= 0x30 && c <= 0x39;
      if (!isDigit && !(lower >= 0x61 && lower <= 0x66)) this.fail("\\u needs four hexadecimal digits");
      value = value * 16 + (isDigit ? c - 0x30 : lower - 0x57);
    }
    return value;
  }

  private space(): void {
    let c = this.bytes[this.at];
    while (c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09) c = this.bytes[++this.at];
  }

  private peek(): number {
    this.space();
    const c = this.bytes[this.at];
    if (c === undefined) this.fail("the text ends early");
    return c;
  }

  private expect(c: number, what: string): void {
    if (this.peek() !== c) this.fail(`${what} is missing; found ${quote(String.fromCharCode(this.bytes[this.at]!))}`);
    this.at++;
  }

  private enter(): void {
    if (++this.depth > MAX_DEPTH) this.fail(`nested more than ${MAX_DEPTH} deep`);
  }

  /** Eats the end of an object or array, or the comma before its next element. */
  private closes(end: number, first: boolean): boolean {
    const c = this.peek();
    if (c === end) {
      this.at++;
      return true;
    }
    if (first) return false;
    if (c !== COMMA)
      this.fail(`"," or "${String.fromCharCode(end)}" is missing; found ${quote(String.fromCharCode(c))}`);
    this.at++;
    if (this.peek() === end) this.fail("a comma before the end");
    return false;
  }
}

/** One JSON value and nothing else. Throws `JsonError` in the name of the file. */
export function parseJson(bytes: Uint8Array, name: string): JsonValue {
  const reader = new JsonReader(bytes, name, { keys: Infinity, elements: Infinity });
  const value = reader.value();
  reader.end();
  return value;
}

/** As `parseJson`, of an object. */
export function parseJsonObject(bytes: Uint8Array, name: string): JsonObject {
  const value = parseJson(bytes, name);
  if (!isJsonObject(value)) throw new JsonError(`${name}: the top must be an object`);
  return value;
}

export const isJsonObject = (value: JsonValue | undefined): value is JsonObject => value instanceof Map;
