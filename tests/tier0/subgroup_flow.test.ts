/**
 * Kernels that use subgroups never rely on lanes coming together again after control flow that divided them: before and between subgroup
 * operations every condition is the same in all lanes. The compiler's own analysis takes a divergent `if` that ended for harmless, and
 * devices differ there, so the text of each kernel is checked: nothing that comes from the invocation's index decides what is executed.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { declaredKernels, declaredLibraries, specialise } from "../../index.ts";
import { usesSubgroups } from "../reflection.ts";

/** The library that a kernel with subgroups takes in place of the one in its file. */
const SUBGROUP_LIBRARIES: Readonly<Record<string, string>> = {
  lanes_none: "lanes_subgroup",
  sum_workgroup: "sum_subgroup",
  row_workgroup: "row_subgroup",
  attention_lanes_none: "attention_lanes_subgroup",
};
const LANE_BUILTINS =
  /@builtin\((?:local_invocation_index|local_invocation_id|global_invocation_id|subgroup_invocation_id)\)\s*(\w+)/g;

interface WgslFunction {
  readonly name: string;
  readonly parameters: string;
  readonly body: string;
}

/** The index behind the bracket that closes the one at `open`. */
function closing(text: string, open: number): number {
  const [left, right] = text[open] === "(" ? ["(", ")"] : ["{", "}"];
  for (let i = open, depth = 0; i < text.length; i++) {
    if (text[i] === left) depth++;
    if (text[i] === right && --depth === 0) return i + 1;
  }
  throw new Error(`no end of ${text.slice(open, open + 40)}`);
}

const namesOf = (parameters: string): string[] => [...parameters.matchAll(/(\w+)\s*:/g)].map((match) => match[1]!);

/** `text` without the arguments of simple calls that the called function leaves unused. */
function withoutUnused(text: string, functions: readonly WgslFunction[]): string {
  return functions.reduce((found, { name, parameters, body }) => {
    const unused = namesOf(parameters).map((parameter) => !mentions(body, [parameter]));
    if (!unused.includes(true)) return found;
    // Arguments with at most one level of brackets: more is left as it is.
    return found.replace(new RegExp(`\\b${name}\\(((?:[^()]|\\([^()]*\\))*)\\)`, "g"), (_, args: string) => {
      const parts = args.match(/(?:[^,()]|\([^()]*\))+/g) ?? [];
      return `${name}(${parts.map((part, i) => (unused[i] ? "_" : part)).join(",")})`;
    });
  }, text);
}

function functionsOf(source: string): WgslFunction[] {
  const text = source.replace(/\/\/.*$/gm, "");
  return [...text.matchAll(/\bfn\s+(\w+)\s*\(/g)].map((match) => {
    const open = match.index + match[0].length - 1;
    const end = closing(text, open);
    const body = text.indexOf("{", end);
    return { name: match[1]!, parameters: text.slice(open, end), body: text.slice(body, closing(text, body)) };
  });
}

const mentions = (text: string, names: Iterable<string>): string | undefined =>
  [...names].find((name) => new RegExp(`\\b${name}\\b`).test(text));

/** Functions that call a subgroup operation, themselves or through others. */
function communicating(functions: readonly WgslFunction[]): Set<string> {
  const names = new Set<string>();
  for (let before = -1; before < names.size;) {
    before = names.size;
    for (const { name, body } of functions)
      if (/\bsubgroup[A-Z]\w*\(/.test(body) || mentions(body, names)) names.add(name);
  }
  return names;
}

/** Names in `body` whose value may differ between lanes, from those of `start` on. */
function varying(body: string, start: readonly string[], differing: readonly string[]): Set<string> {
  const names = new Set(start);
  const sources = new Set([...start, ...differing]);
  for (let before = -1; before < names.size;) {
    before = names.size;
    for (const [, name, value] of body.matchAll(
      /(?:^|[^\w.*])(\w+)(?:\.\w+|\[[^\]]*\])*\s*(?::[^=;{}]+)?[-+*/&|^]?=(?!=)\s*([^;{}]+)/g,
    ))
      if (mentions(value!, sources)) {
        names.add(name!);
        sources.add(name!);
      }
  }
  return names;
}

interface Head {
  readonly start: number;
  /** End of the block. */
  readonly end: number;
  readonly isLoop: boolean;
  readonly condition: string;
}

function headsOf(body: string): Head[] {
  return [...body.matchAll(/\b(if|for|while|switch)\s*\(/g)].map((match) => {
    const open = match.index + match[0].length - 1;
    const after = closing(body, open);
    const inner = body.slice(open + 1, after - 1);
    const block = body.indexOf("{", after);
    const isLoop = match[1] === "for" || match[1] === "while";
    return {
      start: match.index,
      end: closing(body, block),
      isLoop,
      condition: match[1] === "for" ? inner.split(";")[1]! : inner,
    };
  });
}

/** Conditions of a kernel that divide its lanes before the last subgroup operation that they all take part in. */
function divisions(source: string): string[] {
  const declared = functionsOf(source);
  const functions = declared.map((f) => ({ ...f, body: withoutUnused(f.body, declared) }));
  const subgroup = communicating(functions);
  const written = [...source.matchAll(/var<storage,\s*read_write>\s+(\w+)/g)].map((match) => match[1]!);
  return functions.flatMap(({ name, parameters, body }) => {
    if (!subgroup.has(name)) return [];
    const builtins = [...parameters.matchAll(LANE_BUILTINS)].map((match) => match[1]!);
    const isEntry = /@builtin/.test(parameters);
    const given = isEntry ? builtins : namesOf(parameters);
    const lanes = varying(body, given, [...written, ...subgroup, "subgroup\\w+"]);
    const heads = headsOf(body);
    const calls = [...body.matchAll(/\b(\w+)\s*\(/g)]
      .filter(([, called]) => subgroup.has(called!) || /^subgroup[A-Z]/.test(called!))
      .map(({ index }) => index);
    const limit = Math.max(
      ...calls,
      ...heads.filter((h) => h.isLoop && calls.some((at) => at > h.start && at < h.end)).map((h) => h.end),
    );
    return heads
      .filter((h) => h.start < limit && mentions(h.condition, lanes))
      .map((h) => `${name}: ${h.condition.trim()}`);
  });
}

const withSubgroups = declaredKernels().flatMap((kernel) => {
  const file = kernel.url ? readFileSync(kernel.url, "utf8") : "";
  const uses = Object.fromEntries(
    Object.entries(SUBGROUP_LIBRARIES).flatMap(([library, other]) => {
      const slot = new RegExp(`^//#use ${library} as (\\w+)`, "m").exec(file)?.[1];
      return slot ? [[slot, declaredLibraries().find(({ name }) => name === other)!]] : [];
    }),
  );
  const source = specialise(kernel, {}, uses);
  return usesSubgroups(source) ? [[kernel.name, source] as const] : [];
});

describe("control flow around subgroup operations", () => {
  it("is found in the kernels that have them", () => {
    const words = Object.keys(SUBGROUP_LIBRARIES).map((library) => `//#use ${library} as`);
    const expected = declaredKernels().filter(({ url }) => {
      const file = url ? readFileSync(url, "utf8") : "";
      return file.includes("enable subgroups;") || words.some((word) => file.includes(word));
    });
    const names = withSubgroups.map(([name]) => name);
    expect(names.toSorted()).toEqual(expected.map(({ name }) => name).toSorted());
    expect(names).toEqual(
      expect.arrayContaining(["attention_register", "conv2d_3x3", "matmul_vector", "norm", "softmax"]),
    );
  });

  it.each(withSubgroups)("%s: every condition is the same in all lanes", (_, source) => {
    expect(divisions(source)).toEqual([]);
  });

  it.each(withSubgroups)("%s: the compiler's analysis is not switched off", (_, source) => {
    expect(source).not.toMatch(/\bdiagnostic\s*\(/);
  });

  it.each([
    ["a return of some lanes", "if (lane > 3u) { return; }\n  let s = subgroupAdd(v);"],
    [
      "a loop with a bound for each lane",
      "for (var i = lane; i < params.n; i += 8u) { v += x[i]; }\n  let s = subgroupAdd(v);",
    ],
    ["an operation inside a divergent if", "let far = lane * 2u;\n  if (far < params.n) { v = subgroupAdd(v); }"],
    [
      "a divergent if before the next round",
      "for (var i = 0u; i < params.n; i++) { v += total(v); if (lane == i) { continue; } }",
    ],
    [
      "a condition on a shuffled value",
      "let other = subgroupShuffle(v, 1u);\n  while (other > v) { v += 1.0; }\n  v = total(v);",
    ],
    ["a condition on what kernels write", "let seen = y[0];\n  if (seen > 0.0) { v = 1.0; }\n  v = total(v);"],
  ])("sees %s", (_, lines) => {
    const source = `enable subgroups;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
fn total(v: f32) -> f32 { return subgroupAdd(v); }
@compute @workgroup_size(8)
fn test(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  var v = x[lane];
  ${lines}
  if (lane == 0u) { y[group.x] = v; }
}`;
    expect(divisions(source)).toHaveLength(1);
  });
});
