/** The settings of training: types, ranges and defaults from the schemas of zod, meanings from the comments beside them. */
import { readFileSync } from "node:fs";
import ts from "typescript";
import { z } from "zod";
import { settingsSchemas } from "../../../train/config.ts";
import { code, page, table } from "./markdown.ts";

const SOURCE = new URL("../../../train/config.ts", import.meta.url);

interface Property {
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly anyOf?: readonly Property[];
  readonly properties?: Readonly<Record<string, Property>>;
  readonly items?: Property;
  readonly default?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
}

/** Comments of the properties in the objects of `config.ts`, by `constant.path.of.keys`. */
function readComments(): ReadonlyMap<string, string> {
  const text = readFileSync(SOURCE, "utf8");
  const file = ts.createSourceFile("config.ts", text, ts.ScriptTarget.Latest, true);
  const found = new Map<string, string>();
  const commentOf = (node: ts.Node): string =>
    (ts.getLeadingCommentRanges(text, node.pos) ?? [])
      .map(({ pos, end }) => text.slice(pos, end))
      .filter((comment) => comment.startsWith("/**"))
      .map((comment) =>
        comment
          .slice(3, -2)
          .replace(/^\s*\* ?/gm, "")
          .trim(),
      )
      .join(" ");
  // The same key may be reached through a constant (`optimizer`), so comments are kept under the constant, too.
  const visit = (node: ts.Node, path: readonly string[]): void => {
    if (ts.isVariableDeclaration(node) && ts.isIdentifier(node.name) && node.initializer)
      return ts.forEachChild(node.initializer, (child) => visit(child, [(node.name as ts.Identifier).text]));
    if (ts.isPropertyAssignment(node) && ts.isIdentifier(node.name) && path.length > 0) {
      const own = [...path, node.name.text];
      const comment = commentOf(node);
      if (comment) found.set(own.join("."), comment);
      const used = identifiersIn(node.initializer);
      for (const name of used) aliases.set(own.join("."), [...(aliases.get(own.join(".")) ?? []), name]);
      return ts.forEachChild(node.initializer, (child) => visit(child, own));
    }
    if (ts.isShorthandPropertyAssignment(node) && path.length > 0)
      aliases.set([...path, node.name.text].join("."), [node.name.text]);
    ts.forEachChild(node, (child) => visit(child, path));
  };
  visit(file, []);
  for (const statement of file.statements)
    if (ts.isVariableStatement(statement))
      for (const { name, initializer } of statement.declarationList.declarations)
        if (initializer && ts.isIdentifier(name)) {
          aliases.set(name.text, identifiersIn(initializer));
          const comment = commentOf(statement);
          if (comment) found.set(name.text, comment);
        }
  return found;
}

const aliases = new Map<string, string[]>();

/** Names of constants that an expression begins with: `optimizer` in `optimizer.extend({ … })`. */
function identifiersIn(node: ts.Node): string[] {
  if (ts.isIdentifier(node)) return [node.text];
  if (ts.isCallExpression(node) || ts.isPropertyAccessExpression(node)) return identifiersIn(node.expression);
  return [];
}

/** The comment of a key: beside it in its object, or in the constant that the object is made from. */
function commentAt(comments: ReadonlyMap<string, string>, base: string, path: readonly string[]): string {
  const own = comments.get([base, ...path].join("."));
  if (own) return own;
  for (let length = path.length; length >= 0; length--)
    for (const name of aliases.get([base, ...path.slice(0, length)].join(".")) ?? []) {
      if (name === base && length === 0) continue;
      const found = commentAt(comments, name, path.slice(length));
      if (found) return found;
    }
  return "";
}

function typeText(property: Property): string {
  if (property.enum) return property.enum.map((value) => JSON.stringify(value)).join(", ");
  if (property.const !== undefined) return JSON.stringify(property.const);
  if (property.anyOf) return property.anyOf.map(typeText).join(" or ");
  if (property.type === "array") return `list of ${property.items ? typeText(property.items) : "values"}`;
  if (property.type === "object") return "object";
  const isWhole = property.type === "integer";
  const bounds = [
    property.exclusiveMinimum !== undefined && `above ${property.exclusiveMinimum}`,
    property.minimum !== undefined && property.minimum > Number.MIN_SAFE_INTEGER && `at least ${property.minimum}`,
    property.exclusiveMaximum !== undefined && `below ${property.exclusiveMaximum}`,
    property.maximum !== undefined && property.maximum < Number.MAX_SAFE_INTEGER && `at most ${property.maximum}`,
  ].filter(Boolean);
  const kind = isWhole ? "whole number" : String(property.type ?? "any value");
  return [kind, ...bounds].join(", ");
}

function rowsOf(
  property: Property,
  base: string,
  comments: ReadonlyMap<string, string>,
  path: readonly string[] = [],
): string[][] {
  return Object.entries(property.properties ?? {}).flatMap(([key, child]) => {
    const own = [...path, key];
    const comment = commentAt(comments, base, own);
    const preset = child.default === undefined ? "" : JSON.stringify(child.default);
    const row = [
      code(own.join(".")),
      comment,
      child.properties ? "" : typeText(child),
      child.properties ? "" : code(preset),
    ];
    return child.properties ? [...(comment ? [row] : []), ...rowsOf(child, base, comments, own)] : [row];
  });
}

export function settingsPage(): string {
  const comments = readComments();
  const head = ["setting", "meaning", "value", "default"];
  const of = (schema: z.ZodType, base: string): string =>
    table(head, rowsOf(z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as Property, base, comments));
  const body = `Settings come from a preset or a YAML file, and from \`--set name=value\`. An unknown name or a wrong value is refused with
its path. A setting without a default is required, or has no effect if its meaning says so.

## Stages 1 to 3

${of(settingsSchemas.stages, "fields")}

## Stage 0, the image tokenizer

${of(settingsSchemas.stage0, "tokenizerFields")}`;
  return page("Settings of training", "the schemas of zod and the comments beside them", body);
}
