/**
 * A checkpoint's chat template, run under a budget. A template is a program from an untrusted file;
 * `@huggingface/jinja` runs it as long as it likes. Here every step, and every character and element of what a step
 * makes, is counted, and the count has an end: the same one on every machine, in browsers too.
 */
import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { messageOf } from "../engine/errors.ts";
import { ConfigError } from "./io/errors.ts";

const MAX_TEMPLATE = 2 ** 16; // characters
/** Work that any conversation may take: a step counts 1, a character 1, an element of a list 8, a scope 64. At most about a second on one core. */
const BASE_WORK = 2 ** 22;
/** Work for each character of the conversation. The published template takes about 8. */
const WORK_PER_CHARACTER = 64;
/** Texts up to this length may be searched for, and numbers up to it may size a result, without a charge for each place. */
const SHORT = 64;
const MAX_RANGE = 100_000;
/** The library makes a scope, of some 25 entries, for each call and each turn of a loop. */
const SCOPE_WORK = 64;

interface Node {
  readonly type: string;
}
interface Value {
  readonly type: string;
  readonly value: unknown;
}
/** The library's interpreter. Its own types do not resolve: they are imported without an extension. */
const LibraryInterpreter = Interpreter as unknown as new (environment: object) => {
  evaluate(statement: Node | undefined, environment: object): Value;
  run(program: unknown): Value;
};

const ADVICE = "Remove the template to use DeepSeek's format";

/** Thrown inside the interpreter, which passes it on. */
class BudgetError extends Error {}

/** A node whose value is known, so that operands can be looked at before the operation and are computed once. */
class Known {
  readonly type = "Known";
  readonly value: Value;
  constructor(value: Value) {
    this.value = value;
  }
}

/** The node of a call, or of a filter with arguments. */
interface CallNode {
  readonly args: readonly unknown[];
}

/** Names of calls and filters whose work may be that of an argument times that of the operand; "" for a name that is computed. */
const PRODUCTS = new Set(["", "split", "replace", "join", "indent", "tojson"]);

class BudgetedInterpreter extends LibraryInterpreter {
  private left: number;
  /** Length of the longest text or list so far. */
  private longest = 0;
  private readonly sizes = new WeakMap<object, number>();
  /** Nodes that are called where they stand. */
  private readonly callees = new WeakSet<object>();
  /** Nodes whose elements a loop runs over. */
  private readonly iterables = new WeakSet<object>();

  constructor(environment: object, work: number) {
    super(environment);
    this.left = work;
  }

  override evaluate(statement: Node | undefined, environment: object): Value {
    if (statement instanceof Known) return statement.value;
    this.charge(1);
    const value = super.evaluate(statement && this.prepared(statement, environment), environment);
    // A method under another name would be called without its charge.
    if (value.type === "FunctionValue" && statement?.type === "MemberExpression" && !this.callees.has(statement))
      throw new Error("a method is used without being called");
    this.charge(this.sizeOf(value));
    if (statement && this.iterables.has(statement)) this.charge(SCOPE_WORK * lengthOf(value));
    return value;
  }

  private charge(work: number): void {
    this.left -= work;
    if (!(this.left >= 0)) throw new BudgetError();
  }

  /** Size of a value: characters of a text; elements of a list plus their sizes. A list that contains another one twice counts it twice. */
  private sizeOf(value: Value): number {
    const { type } = value;
    if (type === "StringValue") return this.long((value.value as string).length);
    // A namespace changes, so its size is not cached; it may contain another one.
    if (type === "NamespaceValue") return this.sum((value.value as ReadonlyMap<string, Value>).values());
    const isList = type === "ArrayValue" || type === "TupleValue";
    if (!isList && type !== "ObjectValue" && type !== "KeywordArgumentsValue") return 0;
    const known = this.sizes.get(value);
    if (known !== undefined) return known;
    const items = isList ? (value.value as Value[]) : [...(value.value as ReadonlyMap<string, Value>).values()];
    if (items.some((item) => item.type === "NamespaceValue"))
      throw new Error("a list or a mapping contains a namespace");
    const size = 8 * this.long(items.length) + this.sum(items);
    this.sizes.set(value, size);
    return size;
  }

  private long(length: number): number {
    this.longest = Math.max(this.longest, length);
    return length;
  }

  private sum(values: Iterable<Value>): number {
    let size = 0;
    for (const value of values) {
      this.charge(1);
      size += this.sizeOf(value);
    }
    return size;
  }

  /** The same node with the operands evaluated, if its work is not that of its result; charges for it. */
  private prepared(node: Node, environment: object): Node {
    const { type } = node;
    if (type === "BinaryExpression") {
      const { operator, left, right } = node as unknown as { operator: { value: string }; left: Node; right: Node };
      if (operator.value !== "in" && operator.value !== "not in") return node;
      const [needle, text] = [this.evaluate(left, environment), this.evaluate(right, environment)];
      if (needle.type === "StringValue" && text.type === "StringValue")
        this.chargeSearch((needle.value as string).length, (text.value as string).length);
      return { ...node, left: new Known(needle), right: new Known(text) } as Node;
    }
    if (type === "For") {
      const { iterable } = node as unknown as { iterable: Node & { readonly lhs?: Node } };
      this.iterables.add(iterable.type === "SelectExpression" && iterable.lhs ? iterable.lhs : iterable);
    }
    if (type === "CallStatement") this.charge(SCOPE_WORK);
    if (type === "CallExpression") {
      this.charge(SCOPE_WORK);
      this.callees.add((node as unknown as { callee: object }).callee);
      return PRODUCTS.has(calleeOf(node)) ? this.withArguments(node, environment) : node;
    }
    const { filter } = node as unknown as { filter?: Node };
    if ((type === "FilterExpression" || type === "FilterStatement") && filter?.type === "CallExpression")
      if (PRODUCTS.has(calleeOf(filter))) return { ...node, filter: this.withArguments(filter, environment) } as Node;
    return node;
  }

  private withArguments(node: Node, environment: object): Node {
    const args = (node as unknown as CallNode).args.map((argument): unknown => {
      const { type, value } = argument as { type: string; value: Node };
      if (type === "SpreadExpression" || type === "KeywordSpreadExpression")
        throw new Error(`${calleeOf(node)} takes no arguments out of a list or a mapping here`);
      const isKeyword = type === "KeywordArgumentExpression";
      const found = this.evaluate(isKeyword ? value : (argument as Node), environment);
      const raw: unknown = found.value;
      if (typeof raw === "string") this.chargeSearch(raw.length, this.longest);
      else if (typeof raw === "number") this.chargeSearch(Math.abs(raw), this.longest);
      return isKeyword ? { ...(argument as object), value: new Known(found) } : new Known(found);
    });
    return { ...node, args } as unknown as Node;
  }

  private chargeSearch(needle: number, text: number): void {
    if (needle > SHORT) this.charge(Math.min(needle, text) * text);
    if (needle > text) this.charge(needle);
  }
}

/** Elements that a loop over a value runs over. */
const lengthOf = ({ value }: Value): number =>
  Array.isArray(value) ? value.length : value instanceof Map ? value.size : 0;

/** The name that a call node calls: of a function, a method or a filter. */
function calleeOf(node: Node): string {
  const { callee } = node as unknown as { callee: { value?: unknown; property?: { value?: unknown } } };
  const name = callee.property ? callee.property.value : callee.value;
  return typeof name === "string" ? name : "";
}

/** The names that the library's own `render` gives to a template; its `range` has no bound. */
const GLOBALS: Readonly<Record<string, unknown>> = {
  false: false,
  true: true,
  none: null,
  False: false,
  True: true,
  None: null,
  raise_exception: (message: unknown) => {
    throw new Error(String(message));
  },
  // The library does not export this class; we get it from a template.
  strftime_now: (format: unknown) => new Template("{{ strftime_now(format) }}").render({ format: String(format) }),
  range: (start: number, stop?: number, step = 1) => {
    const [from, to] = stop === undefined ? [0, start] : [start, stop];
    const count = Math.ceil((to - from) / step);
    if (!(Number.isFinite(count) && count <= MAX_RANGE)) throw new Error(`range has more than ${MAX_RANGE} numbers`);
    return Array.from({ length: Math.max(0, count) }, (_, i) => from + i * step);
  },
};

/** Characters in the input of a template. */
function charactersOf(value: unknown): number {
  if (typeof value === "string") return value.length;
  if (typeof value !== "object" || value === null) return 1;
  return Object.values(value).reduce<number>((sum, item) => sum + charactersOf(item), 1);
}

export class ChatTemplate {
  private readonly template: Template;

  /** Throws `ConfigError` for a source that is no template or has more than 65,536 characters. */
  constructor(source: string) {
    if (source.length > MAX_TEMPLATE)
      throw new ConfigError(
        `the checkpoint's chat template must have at most ${MAX_TEMPLATE} characters; got ${source.length}. ${ADVICE}`,
      );
    this.template = failing(() => new Template(source));
  }

  /** The text for these variables. Throws `ConfigError` if the template fails, or takes more work than the conversation warrants. */
  render(variables: Readonly<Record<string, unknown>>): string {
    const environment = new Environment() as { set(name: string, value: unknown): void };
    for (const [name, value] of Object.entries({ ...GLOBALS, ...variables })) environment.set(name, value);
    const work = BASE_WORK + WORK_PER_CHARACTER * charactersOf(variables);
    return failing(() => String(new BudgetedInterpreter(environment, work).run(this.template.parsed).value));
  }
}

function failing<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof BudgetError)
      throw new ConfigError(
        `the checkpoint's chat template takes more work than its conversation warrants, and was stopped: it may never end. ${ADVICE}`,
      );
    throw new ConfigError(`the checkpoint's chat template fails: ${messageOf(error)}`);
  }
}
