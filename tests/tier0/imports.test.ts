// The rules of the house that the import lines show: `engine <- kernels <- model <- train <- verify <- eval <- bench <- serve <- cli`, the order
// of the rooms inside kernels/ and model/, no circles, nothing of
// Node in the folders that browsers load, no file too long. The rules are proven on small made-up trees first.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { posix } from "node:path";
import ts from "typescript";
import { describe, expect, it } from "vitest";

const LAYERS = ["engine", "kernels", "model", "train", "verify", "eval", "bench", "serve", "cli"]; // each may import itself and what stands before it
const FREE = ["app", "tests", "examples", "scripts"]; // may import anything, and no layer may import them
/** The bench checks results with the references that the tests have, and uses ops as programs do: these are packed with it. */
const BENCH_TOO = /^(index\.ts$|tests\/(cases|reference|harness|random)(\.ts$|\/))/;
/** The rooms of a layer: each may import itself and what stands before it. "" is the layer's own files. */
const ROOMS: Readonly<Record<string, readonly string[]>> = {
  kernels: [
    "core",
    "reduce",
    "views",
    "pointwise",
    "matmul",
    "attention",
    "conv",
    "pool",
    "norm",
    "loss",
    "embedding",
    "sort",
    "rope",
    "sampling",
    "random",
    "optim",
    "",
  ],
  model: ["io", "image", "nn", "", "node", "web", "janus"],
};
const DOORS = ["model/index.ts"]; // export what stands in the rooms of their layer
const BROWSER = ["engine", "kernels", "model", "train"];
const NODE_ONLY_FILES = ["engine/platform.ts", "engine/software_vulkan.ts", "engine/native_log.ts"];
const NODE_ONLY_FOLDERS = ["model/node/", "model/janus/node/", "train/node/"]; // files, the hub, pictures, runs; nothing that browsers load may import them
const NODE_MODULES = new Set([...builtinModules, "webgpu", "koffi", "sharp"]);
const MAX_LINES = 600;

type Sources = ReadonlyMap<string, string>; // path from the project's root → text

interface Import {
  from: string;
  /** A file of the project, or the name of a package. */
  to: string;
  line: number;
  typeOnly: boolean;
}

const parsed = new Map<string, ts.SourceFile>();

/** Each text is parsed once, as several tests look at all of the project. */
function parse(path: string, text: string): ts.SourceFile {
  const known = parsed.get(path);
  if (known?.text === text) return known;
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  parsed.set(path, file);
  return file;
}

function visit(node: ts.Node, see: (node: ts.Node) => void): void {
  see(node);
  ts.forEachChild(node, (child) => visit(child, see));
}

/** Every `import … from`, `export … from`, `import("…")` and `typeof import("…")` of a file. */
function importsOf(path: string, text: string): Import[] {
  const file = parse(path, text);
  const found: Import[] = [];
  const add = (specifier: ts.Node | undefined, typeOnly: boolean): void => {
    if (!specifier || !ts.isStringLiteralLike(specifier)) return;
    const name = specifier.text;
    const to = name.startsWith(".") ? posix.join(posix.dirname(path), name) : name.replace(/^node:/, "");
    found.push({ from: path, to, line: file.getLineAndCharacterOfPosition(specifier.pos).line + 1, typeOnly });
  };
  visit(file, (node) => {
    if (ts.isImportDeclaration(node)) {
      add(node.moduleSpecifier, node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword);
    } else if (ts.isExportDeclaration(node)) {
      add(node.moduleSpecifier, node.isTypeOnly);
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      add(node.arguments[0], false);
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      add(node.argument.literal, true);
    }
  });
  return found;
}

const folderOf = (path: string): string => path.slice(0, Math.max(0, path.indexOf("/")));
const roomOf = (path: string): string => folderOf(path.slice(path.indexOf("/") + 1));
const isInNodeFolder = (path: string): boolean => NODE_ONLY_FOLDERS.some((folder) => path.startsWith(folder));

function upwardImports(imports: Import[]): string[] {
  return imports.flatMap(({ from, to, line }) => {
    const own = LAYERS.indexOf(folderOf(from));
    if (own < 0) return [];
    const isOurs = [...LAYERS, ...FREE].includes(folderOf(to)) || to === "index.ts";
    const allowed =
      LAYERS.slice(0, own + 1).includes(folderOf(to)) || (folderOf(from) === "bench" && BENCH_TOO.test(to));
    return isOurs && !allowed ? [`${from}:${line} imports ${to}: ${folderOf(from)} may not`] : [];
  });
}

/** Imports inside a layer from a lower room to a higher one. */
function upwardInLayer(imports: Import[]): string[] {
  return imports.flatMap(({ from, to, line }) => {
    const rooms = ROOMS[folderOf(from)] ?? [];
    const [own, other] = [rooms.indexOf(roomOf(from)), rooms.indexOf(roomOf(to))];
    if (own < 0 || folderOf(to) !== folderOf(from) || other <= own) return [];
    if (DOORS.includes(from)) return [];
    return [`${from}:${line} imports ${to}: ${roomOf(from) || folderOf(from)}/ may not`];
  });
}

/** The first circle met from each file, written as `a.ts -> b.ts -> a.ts`. */
function circles(imports: Import[]): string[] {
  const next = new Map<string, string[]>();
  for (const { from, to, typeOnly } of imports) if (!typeOnly) next.set(from, [...(next.get(from) ?? []), to]);
  const found: string[] = [];
  const done = new Set<string>();
  const follow = (file: string, path: string[]): void => {
    if (path.includes(file)) {
      found.push([...path.slice(path.indexOf(file)), file].join(" -> "));
      return;
    }
    if (done.has(file)) return;
    for (const target of next.get(file) ?? []) follow(target, [...path, file]);
    done.add(file);
  };
  for (const file of next.keys()) follow(file, []);
  return found;
}

/** What of Node is named by files that must load in a browser. */
function nodeInBrowser(sources: Sources, imports: Import[]): string[] {
  const isBrowser = (path: string): boolean =>
    BROWSER.includes(folderOf(path)) && !NODE_ONLY_FILES.includes(path) && !isInNodeFolder(path);
  const modules = imports
    .filter(({ from, to }) => (isBrowser(from) || from === "index.ts") && (NODE_MODULES.has(to) || isInNodeFolder(to)))
    .map(({ from, to, line }) => `${from}:${line} imports ${to}`);
  const globals = [...sources].flatMap(([path, text]) => {
    if (!isBrowser(path) || !path.endsWith(".ts") || !text.includes("process")) return [];
    const file = parse(path, text);
    const lines: string[] = [];
    visit(file, (node) => {
      if (!ts.isIdentifier(node) || node.text !== "process") return;
      const { parent } = node;
      const isOfGlobal = ts.isPropertyAccessExpression(parent) && parent.expression.getText() === "globalThis";
      const isMember = "name" in parent && parent.name === node; // x.process, a method of that name
      if (isMember && !isOfGlobal) return;
      lines.push(`${path}:${file.getLineAndCharacterOfPosition(node.getStart()).line + 1} names process`);
    });
    return lines;
  });
  return [...modules, ...globals];
}

/** All that an entry loads: files and packages, whoever imports them. */
function closure(entry: string, imports: Import[]): Set<string> {
  const found = new Set([entry]);
  for (const file of found) for (const { from, to, typeOnly } of imports) if (from === file && !typeOnly) found.add(to);
  return found;
}

function longFiles(sources: Sources): string[] {
  return [...sources].flatMap(([path, text]) => {
    const lines = text.split("\n").length - 1;
    return lines > MAX_LINES ? [`${path} has ${lines} lines`] : [];
  });
}

function problems(sources: Sources): string[] {
  const imports = [...sources].flatMap(([path, text]) => (path.endsWith(".wgsl") ? [] : importsOf(path, text)));
  return [
    ...upwardImports(imports),
    ...upwardInLayer(imports),
    ...circles(imports),
    ...nodeInBrowser(sources, imports),
    ...longFiles(sources),
  ];
}

function projectSources(): Sources {
  const root = new URL("../../", import.meta.url);
  const paths = [...LAYERS, ...FREE].flatMap((folder) =>
    existsSync(new URL(folder, root))
      ? readdirSync(new URL(folder, root), { recursive: true, encoding: "utf8" }).map((path) =>
          posix.join(folder, path),
        )
      : [],
  );
  if (existsSync(new URL("index.ts", root))) paths.push("index.ts");
  const ours = paths.filter((path) => /\.(ts|mjs|wgsl)$/.test(path) && !path.includes("node_modules/"));
  return new Map(ours.map((path) => [path, readFileSync(new URL(path, root), "utf8")]));
}

describe("import rules", () => {
  const wrong: [string, Record<string, string>, string][] = [
    [
      "an upward arrow",
      { "engine/a.ts": `import { b } from "../kernels/b.ts";` },
      "engine/a.ts:1 imports kernels/b.ts",
    ],
    [
      "an upward type",
      { "engine/a.ts": `\nimport type { B } from "../model/b.ts";` },
      "engine/a.ts:2 imports model/b.ts",
    ],
    ["an upward re-export", { "kernels/a.ts": `export * from "../model/b.ts";` }, "kernels/a.ts:1 imports model/b.ts"],
    [
      "a family on a higher one",
      { "kernels/reduce/a.ts": `import { b } from "../norm/b.ts";` },
      "kernels/reduce/a.ts:1 imports kernels/norm/b.ts: reduce/ may not",
    ],
    [
      "a family on the door",
      { "kernels/core/a.ts": `import { b } from "../index.ts";` },
      "kernels/core/a.ts:1 imports kernels/index.ts: core/ may not",
    ],
    [
      "what any model uses on Janus",
      { "model/a.ts": `import type { B } from "./janus/b.ts";` },
      "model/a.ts:1 imports model/janus/b.ts: model/ may not",
    ],
    ["a layer on a bench", { "model/a.ts": `await import("../bench/b.ts");` }, "model/a.ts:1 imports bench/b.ts"],
    ["a bench on a suite", { "bench/a.ts": `import "../tests/gpu.ts";` }, "bench/a.ts:1 imports tests/gpu.ts"],
    ["a layer on the entry", { "kernels/a.ts": `import "../index.ts";` }, "kernels/a.ts:1 imports index.ts"],
    [
      "a circle",
      { "engine/a.ts": `import { b } from "./b.ts";`, "engine/b.ts": `export { a } from "./a.ts";` },
      "engine/a.ts -> engine/b.ts -> engine/a.ts",
    ],
    ["a Node module", { "model/a.ts": `import { join } from "node:path";` }, "model/a.ts:1 imports path"],
    ["a sub-module of Node", { "model/a.ts": `import fs from "fs/promises";` }, "model/a.ts:1 imports fs/promises"],
    [
      "the Node folder",
      { "model/janus/a.ts": `await import("../node/b.ts");` },
      "model/janus/a.ts:1 imports model/node/b.ts",
    ],
    [
      "the Node folder of Janus",
      { "model/janus/a.ts": `import "./node/b.ts";` },
      "model/janus/a.ts:1 imports model/janus/node/b.ts",
    ],
    [
      "files for any model on Janus",
      { "model/node/a.ts": `import "../janus/b.ts";` },
      "model/node/a.ts:1 imports model/janus/b.ts: node/ may not",
    ],
    ["the Node folder of training", { "train/a.ts": `import "./node/b.ts";` }, "train/a.ts:1 imports train/node/b.ts"],
    ["a decoder of Node", { "model/image/a.ts": `import sharp from "sharp";` }, "model/image/a.ts:1 imports sharp"],
    [
      "the Node folder in the entry",
      { "index.ts": `export * from "./model/node/a.ts";` },
      "index.ts:1 imports model/node/a.ts",
    ],
    ["a folder of that name elsewhere", { "engine/node/a.ts": `import "node:fs";` }, "engine/node/a.ts:1 imports fs"],
    ["Dawn", { "kernels/a.ts": `type D = typeof import("webgpu");` }, "kernels/a.ts:1 imports webgpu"],
    ["process", { "engine/a.ts": `export const x = 1;\nif (process.env.X) x;` }, "engine/a.ts:2 names process"],
    ["process by globalThis", { "engine/a.ts": `globalThis.process.exit();` }, "engine/a.ts:1 names process"],
    ["a long file", { "engine/a.wgsl": "\n".repeat(MAX_LINES + 1) }, "engine/a.wgsl has 601 lines"],
  ];
  it.each(wrong)("finds %s", (_, files, message) => {
    expect(problems(new Map(Object.entries(files)))).toEqual([expect.stringContaining(message)]);
  });

  it("allows downward arrows, circles of types, and Node in its own files", () => {
    const files = {
      "engine/a.ts": `import type { B } from "./b.ts"; // process`,
      "engine/b.ts": `import { a } from "./a.ts"; export const c = a.process({ process() {} });`,
      "engine/platform.ts": `process.getBuiltinModule("node:fs"); type D = typeof import("webgpu");`,
      "kernels/a.ts": `import { a } from "../engine/a.ts";`,
      "model/node/a.ts": `import fs from "node:fs"; import sharp from "sharp"; import { a } from "../../kernels/a.ts"; process.exit();`,
      "train/node/a.ts": `import fs from "node:fs"; import { a } from "../../kernels/core/a.ts"; process.exit();`,
      "kernels/core/a.ts": "",
      "kernels/norm/a.ts": `import { a } from "../reduce/a.ts"; import "../norm/b.ts";`,
      "model/janus/a.ts": `import { a } from "../a.ts"; import { b } from "../io/a.ts";`,
      "tests/a.ts": `import { a } from "../train/node/a.ts";`,
      "index.ts": `export * from "./engine/a.ts";`,
      "bench/a.ts": `import "../index.ts"; import "../tests/cases.ts"; import "../tests/reference/a.ts";`,
      "cli/a.ts": `await import("../bench/a.ts");`,
    };
    expect(problems(new Map(Object.entries(files)))).toEqual([]);
  });

  it("hold in this project", () => {
    const sources = projectSources();
    expect(sources.size).toBeGreaterThan(5);
    const families = [...sources.keys()].filter((path) => folderOf(path) === "kernels").map(roomOf);
    expect([...new Set(families)].toSorted()).toEqual(ROOMS.kernels!.toSorted());
    expect(problems(sources)).toEqual([]);
  });

  it.each(["index.ts", "model/index.ts", "train/index.ts"])("what %s loads runs in a browser", (entry) => {
    const sources = projectSources();
    const isNodes = (file: string): boolean => NODE_ONLY_FILES.includes(file) && file !== "engine/platform.ts";
    const imports = [...sources].flatMap(([path, text]) =>
      path.endsWith(".wgsl") || path === "engine/platform.ts" ? [] : importsOf(path, text),
    );
    const loaded = closure(entry, imports);
    expect(loaded.size).toBeGreaterThan(50);
    expect([...loaded].filter((file) => NODE_MODULES.has(file) || isInNodeFolder(file) || isNodes(file))).toEqual([]);
  });
});
