/**
 * Kernels: a WGSL file, its bindings and its parameters, and how the file is specialised.
 *
 * Specialisation replaces the right-hand side of top-level `const` and `alias` lines by name, and swaps which library a
 * `//#use LIBRARY as SLOT` line names; nothing else. A library is WGSL text whose names end in `_T`; for slot `x` they end in `_x`.
 * `//#use LIBRARY` without a slot includes the library as it is, once. A file names the libraries in its text and gets them when it is
 * declared: `kernel(…, [grid, finite])`, `library(name, url, [finite])`. A library may hold a family's `Params` and bindings.
 */
import type { DType } from "./dtype.ts";
import { ArgumentError, KernelError, messageOf } from "./errors.ts";
import { readText, readTextSync } from "./platform.ts";

export type Access = "read" | "write" | "read_write";
export type ParamType = "u32" | "i32" | "f32" | "vec4u" | "vec4f";
export type Constants = Readonly<Record<string, number | boolean | string>>;

/** WGSL that kernels, and other libraries, include by `//#use`. */
export interface Library {
  readonly name: string;
  /** Path of the WGSL, for messages. */
  readonly url: URL | null;
  /** The libraries that its text names. */
  readonly libraries: readonly Library[];
  /** How often the name was declared before, each time with another source. */
  readonly version: number;
}

/** What fills each slot of a kernel: a library, or the name of a dtype for the one of that name among the kernel's libraries. */
export type Uses = Readonly<Record<string, Library | DType>>;

export interface Kernel<B extends string = string, P extends string = string> {
  readonly name: string;
  /** Path of the WGSL, for messages. */
  readonly url: URL | null;
  readonly bindings: Readonly<Record<B, Access>>;
  readonly params: Readonly<Record<P, ParamType>>;
  /** The libraries that its text names. */
  readonly libraries: readonly Library[];
  /** How often the name was declared before, each time with another source. */
  readonly version: number;
  /** Byte offset of each parameter in the uniform struct `Params`, and its whole size. */
  readonly layout: { readonly offsets: Readonly<Record<P, number>>; readonly bytes: number };
}

const ENTRY_WORDS: Readonly<Record<ParamType, number>> = { u32: 1, i32: 1, f32: 1, vec4u: 4, vec4f: 4 };

const kernels = new Map<string, Kernel>();
const libraries = new Map<string, Library>();
/** The text of each, null until it is read. */
const texts = new Map<Kernel | Library, string | null>();

/**
 * Declares a kernel. Binding i of group 0 is the i-th name of `bindings`; the uniform struct `Params`, if there are parameters,
 * comes after them. The entry point has the kernel's name.
 * The same declaration again gives the same kernel; one with another source replaces it under its name, so that a module can be loaded again
 * (hot reload): launches of the new kernel compile, those of the old one stay as they are.
 * @param name unique; equal to the file's name and its entry point
 * @param source `new URL("./name.wgsl", import.meta.url)`, or the WGSL text itself
 * @param included the libraries that the text names in `//#use`
 */
export function kernel<B extends string, P extends string = never>(
  name: string,
  source: URL | string,
  bindings: Readonly<Record<B, Access>>,
  params: Readonly<Record<P, ParamType>> = {} as Record<P, ParamType>,
  included: readonly Library[] = [],
): Kernel<B, P> {
  const known = kernels.get(name);
  if (
    known &&
    isSame(known, source, included) &&
    sameEntries(known.bindings, bindings) &&
    sameEntries(known.params, params)
  )
    return known as unknown as Kernel<B, P>;
  const offsets = {} as Record<P, number>;
  let words = 0;
  for (const key of Object.keys(params) as P[]) {
    const size = ENTRY_WORDS[params[key]];
    words = Math.ceil(words / size) * size;
    offsets[key] = words * 4;
    words += size;
  }
  const url = typeof source === "string" ? null : source;
  const layout = { offsets, bytes: Math.ceil(words / 4) * 16 };
  const declared: Kernel<B, P> = {
    name,
    url,
    bindings,
    params,
    libraries: included,
    version: versionAfter(known),
    layout,
  };
  kernels.set(name, declared as unknown as Kernel);
  texts.set(declared as unknown as Kernel, typeof source === "string" ? source : null);
  return declared;
}

/**
 * Declares a library for `//#use`. The same declaration again gives the same library, one with another source replaces it.
 * @param name unique; what `//#use` lines say
 * @param source its file's URL, or the WGSL text itself
 * @param included the libraries that the text names in `//#use`
 */
export function library(name: string, source: URL | string, included: readonly Library[] = []): Library {
  const known = libraries.get(name);
  if (known && isSame(known, source, included)) return known;
  const declared: Library = {
    name,
    url: typeof source === "string" ? null : source,
    libraries: included,
    version: versionAfter(known),
  };
  libraries.set(name, declared);
  texts.set(declared, typeof source === "string" ? source : null);
  return declared;
}

/** Whether a declaration has this source and these libraries. */
function isSame(known: Kernel | Library, source: URL | string, included: readonly Library[]): boolean {
  const isSource =
    typeof source === "string" ? !known.url && texts.get(known) === source : known.url?.href === source.href;
  return isSource && known.libraries.length === included.length && known.libraries.every((l, i) => l === included[i]);
}

const versionAfter = (known: Kernel | Library | undefined): number => (known ? known.version + 1 : 0);

/** Whether two records have the same names in the same order, with the same values. */
const sameEntries = (a: object, b: object): boolean =>
  JSON.stringify(Object.entries(a)) === JSON.stringify(Object.entries(b));

/** Every kernel declared so far, for tests and tools. */
export const declaredKernels = (): readonly Kernel[] => [...kernels.values()];

/** Every library declared so far, for tests and tools. */
export const declaredLibraries = (): readonly Library[] => [...libraries.values()];

/** Loads the text of every kernel and library declared so far. `Device.create` calls it; call it again after later declarations in a browser. */
export async function loadKernels(): Promise<void> {
  await Promise.all(
    [...texts].map(async ([declared, text]) => {
      if (text !== null || !declared.url) return;
      try {
        texts.set(declared, await readText(declared.url));
      } catch (error) {
        throw new KernelError(`the WGSL of "${declared.name}" cannot be read: ${messageOf(error)}`);
      }
    }),
  );
}

function textOf(declared: Kernel | Library, what: string): string {
  const text = texts.get(declared) ?? (declared.url && readTextSync(declared.url));
  if (text === null) throw new KernelError(`${what} is not loaded yet; await loadKernels() after declaring it`);
  texts.set(declared, text);
  return text;
}

const USE = /^[ \t]*\/\/#use[ \t]+(\S+)(?:[ \t]+as[ \t]+(\w+))?[ \t]*$/gm;
const DECLARATION = /^(const|alias)[ \t]+(\w+)([ \t]*:[ \t]*[\w<>, ]+)?[ \t]*=[ \t]*([^;]*);/gm;
const DIRECTIVE = /^(enable|requires|diagnostic)\b[^;]*;[ \t]*\n?/gm;

/** The WGSL of `kernel` with its libraries in place and its constants replaced. Throws `KernelError` for a name it does not have. */
export function specialise(target: Kernel, constants: Constants = {}, uses: Uses = {}): string {
  const where = `kernel "${target.name}"`;
  const slots = new Set<string>();
  const included = new Set<string>();
  const find = (owner: Kernel | Library, name: string, use: string): Library => {
    const found = owner.libraries.find((l) => l.name === name);
    if (found) return found;
    throw new KernelError(
      `${where}: ${use} must be one of the libraries of "${owner.name}"; got ${owner.libraries.map((l) => l.name).join(", ") || "none"}. Pass it where "${owner.name}" is declared.`,
    );
  };
  const include = (owner: Kernel | Library, body: string): string =>
    body.replace(USE, (_, name: string, slot: string | undefined) => {
      if (slot === undefined) {
        const source = find(owner, name, `library "${name}"`);
        if (included.has(name)) return "";
        included.add(name);
        return include(source, textOf(source, `${where}: library "${name}"`));
      }
      slots.add(slot);
      const use = uses[slot] ?? find(owner, name, `library "${name}" for slot ${slot}`);
      const chosen = typeof use === "string" ? find(target, use, `dtype ${use} for slot ${slot}`) : use;
      const source = textOf(chosen, `${where}: library "${chosen.name}" for slot ${slot}`);
      return include(chosen, source.replace(/_T\b/g, `_${slot}`));
    });
  let body = include(target, textOf(target, where));
  for (const slot of Object.keys(uses)) {
    if (!slots.has(slot))
      throw new KernelError(`${where} has no slot "${slot}"; it has: ${[...slots].join(", ") || "none"}`);
  }
  const seen = new Set<string>();
  body = body.replace(DECLARATION, (line, word: string, name: string, type: string | undefined, old: string) => {
    const value = constants[name];
    if (value === undefined) return line;
    seen.add(name);
    return `${word} ${name}${type?.trimEnd() ?? ""} = ${literal(value, old, type, `${where}: constant ${name}`)};`;
  });
  for (const name of Object.keys(constants)) {
    if (!seen.has(name)) throw new KernelError(`${where} has no constant or alias "${name}" at top level`);
  }
  const directives = new Set<string>();
  body = body.replace(DIRECTIVE, (line) => {
    directives.add(line.trim());
    return "";
  });
  return [...directives, body].join("\n");
}

/** `value` as WGSL in place of `old`: an unsigned literal if `old` is one, a float if `old` is one. */
function literal(value: number | boolean | string, old: string, type: string | undefined, where: string): string {
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) throw new ArgumentError(`${where}: ${value} is not a finite number`);
  const isFloat = type?.includes("f32") || /^-?(\d*\.\d|\d+\.|\d[\d.]*e[+-]?\d|[\d.]+f$)/i.test(old.trim());
  if (isFloat) return /[.e]/.test(String(value)) ? String(value) : `${value}.0`;
  if (!Number.isInteger(value)) throw new ArgumentError(`${where}: ${value} is not an integer`);
  if (!(type?.includes("u32") || /^(0x[\da-f]+|\d+)u$/i.test(old.trim()))) return String(value);
  if (value < 0) throw new ArgumentError(`${where}: ${value} is negative, the constant is unsigned`);
  return `${value}u`;
}

/** The numbers of a launch as the bytes of the kernel's `Params`. */
export function packParams(
  target: Kernel,
  values: Readonly<Record<string, number | readonly number[]>>,
): Uint32Array | null {
  const { offsets, bytes } = target.layout;
  if (bytes === 0) return null;
  const words = new Uint32Array(bytes / 4);
  const floats = new Float32Array(words.buffer);
  for (const name in target.params) {
    const value = values[name];
    if (value === undefined) throw new KernelError(`kernel "${target.name}": parameter "${name}" was not given`);
    const at = offsets[name]! / 4;
    const into = target.params[name] === "f32" || target.params[name] === "vec4f" ? floats : words;
    if (typeof value === "number") into[at] = value;
    else into.set(value, at);
  }
  return words;
}

/** Name of a variant: equal keys, equal code. */
export function variantKey(kernel: Kernel, constants: Constants | undefined, uses: Uses | undefined): string {
  let key = named(kernel);
  for (const slot in uses) {
    const use = uses[slot]!;
    key += ` ${slot}:${typeof use === "string" ? use : named(use)}`;
  }
  for (const name in constants) key += ` ${name}=${constants[name]}`;
  return key;
}

/** The name of a declaration, with its version if it replaced another. */
const named = ({ name, version }: Kernel | Library): string => (version ? `${name}#${version}` : name);

/** What a compiler says of a kernel, with the WGSL lines around each mistake. */
export function describeErrors(
  kernel: Kernel,
  key: string,
  source: string,
  info: GPUCompilationInfo,
  fallback: string,
): string {
  const lines = source.split("\n");
  const parts = [`kernel ${key} (${kernel.url?.pathname.split("/").slice(-2).join("/") ?? "inline"}) does not compile`];
  const errors = info.messages.filter((m) => m.type === "error");
  for (const m of errors.slice(0, 3)) {
    parts.push(`line ${m.lineNum}, column ${m.linePos}: ${m.message}`);
    for (let n = Math.max(1, m.lineNum - 2); n <= Math.min(lines.length, m.lineNum + 2); n++) {
      parts.push(`${n === m.lineNum ? ">" : " "} ${String(n).padStart(4)} ${lines[n - 1]}`);
    }
  }
  if (!errors.length) parts.push(fallback);
  return parts.join("\n");
}
