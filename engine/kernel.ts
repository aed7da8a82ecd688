/**
 * Kernels: WGSL files with their bindings and parameters, and the specialisation of these files.
 *
 * Specialisation replaces the right-hand side of top-level `const` and `alias` lines by name, and swaps which library a
 * `//#use LIBRARY as SLOT` line names, and writes out loops marked `//#unroll` (unroll.ts); nothing else. A library is WGSL text whose names end in `_T`; for slot `x` they
 * end in `_x`. `//#use LIBRARY` without a slot includes the library unchanged, once. A file names its libraries in the
 * text, and its declaration passes them: `kernel(…, [grid, finite])`, `library(name, url, [finite])`. A library may
 * contain the `Params` and bindings of a family.
 */
import type { DType } from "./dtype.ts";
import { ArgumentError, KernelError, messageOf } from "./errors.ts";
import { readText, readTextSync } from "./platform.ts";
import { unrolled } from "./unroll.ts";

export type Access = "read" | "write" | "read_write";
export type ParamType = "u32" | "i32" | "f32" | "vec4u" | "vec4f";
export type Constants = Readonly<Record<string, number | boolean | string>>;

/** WGSL that kernels and other libraries include with `//#use`. */
export interface Library {
  readonly name: string;
  /** Path of the WGSL, for messages. */
  readonly url: URL | null;
  /** The libraries that the text names in `//#use`. */
  readonly libraries: readonly Library[];
  /** Number of earlier declarations of the name with another source. */
  readonly version: number;
}

/** Library for each slot of a kernel. The name of a dtype selects the library of that name from the kernel's libraries. */
export type Uses = Readonly<Record<string, Library | DType>>;

export interface Kernel<B extends string = string, P extends string = string> {
  readonly name: string;
  /** Path of the WGSL, for messages. */
  readonly url: URL | null;
  readonly bindings: Readonly<Record<B, Access>>;
  readonly params: Readonly<Record<P, ParamType>>;
  /** The libraries that the text names in `//#use`. */
  readonly libraries: readonly Library[];
  /** Number of earlier declarations of the name with another source. */
  readonly version: number;
  /** Byte offset of each parameter in the uniform struct `Params`, and the size of the struct. */
  readonly layout: { readonly offsets: Readonly<Record<P, number>>; readonly bytes: number };
}

const ENTRY_WORDS: Readonly<Record<ParamType, number>> = { u32: 1, i32: 1, f32: 1, vec4u: 4, vec4f: 4 };

const kernels = new Map<string, Kernel>();
const libraries = new Map<string, Library>();
/** Source text of each declaration; null until it is read. */
const texts = new Map<Kernel | Library, string | null>();

/**
 * Declares a kernel. Binding i of group 0 is the i-th name of `bindings`; the uniform struct `Params`, if there are parameters,
 * comes after them. The entry point has the kernel's name. Repeating a declaration returns the same kernel. A
 * declaration with another source replaces the kernel of that name, so that a module can be reloaded (hot reload): the
 * new kernel is compiled at its launches, and the old one still works.
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
 * Declares a library for `//#use`. Repeating a declaration returns the same library; another source replaces it.
 * @param name unique; the name in `//#use` lines
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

/** True if a declaration has this source and these libraries. */
function isSame(known: Kernel | Library, source: URL | string, included: readonly Library[]): boolean {
  const isSource =
    typeof source === "string" ? !known.url && texts.get(known) === source : known.url?.href === source.href;
  return isSource && known.libraries.length === included.length && known.libraries.every((l, i) => l === included[i]);
}

const versionAfter = (known: Kernel | Library | undefined): number => (known ? known.version + 1 : 0);

/** True if two records have the same names in the same order, with the same values. */
const sameEntries = (a: object, b: object): boolean =>
  JSON.stringify(Object.entries(a)) === JSON.stringify(Object.entries(b));

/** Returns every kernel declared so far, for tests and tools. */
export const declaredKernels = (): readonly Kernel[] => [...kernels.values()];

/** Returns every library declared so far, for tests and tools. */
export const declaredLibraries = (): readonly Library[] => [...libraries.values()];

/**
 * Loads the text of every kernel and library declared so far. `Device.create` calls it; in a browser, call it again
 * after later declarations.
 */
export async function loadKernels(): Promise<void> {
  await Promise.all(
    [...texts].map(async ([declared, text]) => {
      if (text !== null || !declared.url) return;
      try {
        texts.set(declared, await readText(declared.url));
      } catch (error) {
        throw new KernelError(
          `loadKernels: the WGSL of "${declared.name}" must be readable; got ${messageOf(error)}. Check its URL.`,
        );
      }
    }),
  );
}

function textOf(declared: Kernel | Library, what: string): string {
  const text = texts.get(declared) ?? (declared.url && readTextSync(declared.url));
  if (text === null)
    throw new KernelError(`${what} must be loaded before use; got no text. Await loadKernels() after declaring it.`);
  texts.set(declared, text);
  return text;
}

const USE = /^[ \t]*\/\/#use[ \t]+(\S+)(?:[ \t]+as[ \t]+(\w+))?[ \t]*$/gm;
const DECLARATION = /^(const|alias)[ \t]+(\w+)([ \t]*:[ \t]*[\w<>, ]+)?[ \t]*=[ \t]*([^;]*);/gm;
const DIRECTIVE = /^(enable|requires|diagnostic)\b[^;]*;[ \t]*\n?/gm;

/** Returns the WGSL of a kernel with its libraries included, its constants replaced and its marked loops written out. Throws `KernelError` for an unknown name. */
export function specialise(target: Kernel, constants: Constants = {}, uses: Uses = {}): string {
  const where = `kernel "${target.name}"`;
  const slots = new Set<string>();
  const included = new Set<string>();
  const find = (owner: Kernel | Library, name: string, use: string): Library => {
    const found = owner.libraries.find((l) => l.name === name);
    if (found) return found;
    throw new KernelError(
      `${where}: ${use} must be one of the libraries of "${owner.name}"; got ${owner.libraries.map((l) => l.name).join(", ") || "none"}. Pass it in the declaration of "${owner.name}".`,
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
      throw new KernelError(
        `${where}: slots must be among ${[...slots].join(", ") || "none"}; got ${slot}. Correct "use".`,
      );
  }
  const seen = new Set<string>();
  body = body.replace(DECLARATION, (line, word: string, name: string, type: string | undefined, old: string) => {
    const value = constants[name];
    if (value === undefined) return line;
    seen.add(name);
    return `${word} ${name}${type?.trimEnd() ?? ""} = ${literal(value, old, type, `${where}: constant ${name}`)};`;
  });
  for (const name of Object.keys(constants)) {
    if (!seen.has(name))
      throw new KernelError(`${where}: constants must name a top-level const or alias; got ${name}. Correct the name.`);
  }
  const directives = new Set<string>();
  body = body.replace(DIRECTIVE, (line) => {
    directives.add(line.trim());
    return "";
  });
  try {
    return unrolled([...directives, body].join("\n"));
  } catch (error) {
    throw new KernelError(`${where}: ${messageOf(error)}. Correct the loop.`);
  }
}

/** Formats `value` as WGSL to replace `old`: unsigned or float, as `old` is. */
function literal(value: number | boolean | string, old: string, type: string | undefined, where: string): string {
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value))
    throw new ArgumentError(`${where}: constants must be finite; got ${value}. Change the value.`);
  const isFloat = type?.includes("f32") || /^-?(\d*\.\d|\d+\.|\d[\d.]*e[+-]?\d|[\d.]+f$)/i.test(old.trim());
  if (isFloat) return /[.e]/.test(String(value)) ? String(value) : `${value}.0`;
  if (!Number.isInteger(value))
    throw new ArgumentError(`${where}: an integer constant must be whole; got ${value}. Change the value.`);
  if (!(type?.includes("u32") || /^(0x[\da-f]+|\d+)u$/i.test(old.trim()))) return String(value);
  if (value < 0)
    throw new ArgumentError(`${where}: an unsigned constant must be at least 0; got ${value}. Change the value.`);
  return `${value}u`;
}

/** Packs the numbers of a launch into the kernel's `Params`. */
export function packParams(
  target: Kernel,
  values: Readonly<Record<string, number | readonly number[]>>,
): Uint32Array | null {
  const { offsets, bytes } = target.layout;
  if (bytes === 0) return null;
  const words = new Uint32Array(bytes / 4);
  let floats: Float32Array | null = null;
  for (const name in target.params) {
    const value = values[name];
    if (value === undefined)
      throw new KernelError(
        `kernel "${target.name}": params must have ${Object.keys(target.params).join(", ")}; got none for ${name}. Pass a number.`,
      );
    const at = offsets[name]! / 4;
    const isFloat = target.params[name] === "f32" || target.params[name] === "vec4f";
    const into = isFloat ? (floats ??= new Float32Array(words.buffer)) : words;
    if (typeof value === "number") into[at] = value;
    else {
      if (value.length > ENTRY_WORDS[target.params[name]!])
        throw new KernelError(
          `kernel "${target.name}": ${name} must have at most ${ENTRY_WORDS[target.params[name]!]} numbers, it is a ${target.params[name]}; got ${value.length}. Shorten it.`,
        );
      for (let i = 0; i < value.length; i++) into[at + i] = value[i]!;
    }
  }
  return words;
}

/** Key of a variant: equal keys mean equal code. */
export function variantKey(kernel: Kernel, constants: Constants | undefined, uses: Uses | undefined): string {
  let key = named(kernel);
  for (const slot in uses) {
    const use = uses[slot]!;
    key += ` ${slot}:${typeof use === "string" ? use : named(use)}`;
  }
  for (const name in constants) key += ` ${name}=${constants[name]}`;
  return key;
}

/** Name of a declaration, with its version if it replaced another. */
const named = ({ name, version }: Kernel | Library): string => (version ? `${name}#${version}` : name);

/** Formats a compiler's messages about a kernel, with the WGSL lines around each mistake. */
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
