/**
 * Compensated arithmetic under a compiler that reassociates: the formulas are read out of the WGSL and evaluated in f32 as fast math may, with
 * sums flattened, equal terms cancelled, common factors taken out, terms in any order and products contracted. Only `opaque` stops it.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

type Node =
  | { readonly kind: "number"; readonly value: number }
  | { readonly kind: "sum"; readonly terms: readonly (readonly [sign: number, term: Node])[] }
  | { readonly kind: "product"; readonly factors: readonly Node[] }
  | { readonly kind: "call"; readonly name: string; readonly args: readonly Node[] };
type Names = Map<string, Node>;

const read = (library: string): string =>
  readFileSync(new URL(`../../kernels/core/lib/${library}.wgsl`, import.meta.url), "utf8").replace(/\/\/.*$/gm, "");
const number = (value: number): Node => ({ kind: "number", value });

interface WgslFunction {
  readonly parameters: readonly string[];
  readonly lines: readonly (readonly [name: string, value: string])[];
}

/** The `let`s of a function, and its result as the last line. */
function functionOf(source: string, name: string): WgslFunction {
  const [, parameters, body] = new RegExp(`fn ${name}\\(([^)]*)\\)[^{]*\\{([^}]*)\\}`).exec(source)!;
  const lines = [...body!.matchAll(/(?:let (\w+) =|(return)) ([^;]+);/g)].map(
    ([, variable, result, value]) => [variable ?? result!, value!] as const,
  );
  return { parameters: [...parameters!.matchAll(/(\w+):/g)].map((m) => m[1]!), lines };
}

/** An expression as a graph: names stand for what they were set to, so that nothing hides behind a variable. */
function parse(text: string, names: Names, functions: ReadonlyMap<string, WgslFunction>): Node {
  const masked = text.replace(/bitcast<vec4f>\(bitcast<vec4u>\((\w+)\) & vec4u\(0xfffff000u\)\)/g, "upper($1)");
  const tokens = masked.match(/[A-Za-z_]\w*|\d[\d.]*(?:e[+-]?\d+)?|[-+*/(),]/g)!;
  let at = 0;
  const list = (): Node[] => {
    const args: Node[] = [];
    do {
      at++;
      args.push(sum());
    } while (tokens[at] === ",");
    at++;
    return args;
  };
  const atom = (): Node => {
    const token = tokens[at++]!;
    if (token === "-") return { kind: "sum", terms: [[-1, atom()]] };
    if (token === "(") {
      at--;
      return list()[0]!;
    }
    if (/^\d/.test(token)) return number(Math.fround(Number(token)));
    if (tokens[at] !== "(") return names.get(token)!;
    const args = list();
    const called = functions.get(token);
    if (called) return run(called, args, functions).get("return")!;
    return token === "vec4f" ? args[0]! : { kind: "call", name: token, args };
  };
  const product = (): Node => {
    const factors = [atom()];
    for (; tokens[at] === "*"; factors.push(atom())) at++;
    return factors.length === 1 ? factors[0]! : { kind: "product", factors };
  };
  const sum = (): Node => {
    const terms: [number, Node][] = [[1, product()]];
    while (tokens[at] === "+" || tokens[at] === "-") terms.push([tokens[at++] === "+" ? 1 : -1, product()]);
    return terms.length === 1 ? terms[0]![1] : { kind: "sum", terms };
  };
  return sum();
}

function run(called: WgslFunction, args: readonly Node[], functions: ReadonlyMap<string, WgslFunction>): Names {
  const names: Names = new Map(called.parameters.map((name, i) => [name, args[i]!]));
  for (const [name, value] of called.lines) {
    names.set(name, parse(value, names, functions));
    if (name === "r") break; // what follows is no compensated arithmetic
  }
  return names;
}

const BUILTINS: Readonly<Record<string, (...args: number[]) => number>> = {
  round: (v) => Math.sign(v) * Math.round(Math.abs(v)),
  clamp: (v, low, high) => Math.min(Math.max(v, low!), high!),
  upper: (v) =>
    new Float32Array(Uint32Array.of(new Uint32Array(Float32Array.of(v).buffer)[0]! & 0xfffff000).buffer)[0]!,
  opaque4: (v) => v,
  upper24: (v) => v,
};

interface Term {
  coefficient: number;
  readonly factors: readonly Node[];
}

/** Evaluates as one of the ways that fast math allows, chosen by `random`. */
class FastMath {
  private readonly known = new Map<Node, number>();
  private readonly random: () => number;
  private readonly seesThrough: boolean;
  constructor(random: () => number, seesThrough: boolean) {
    this.random = random;
    this.seesThrough = seesThrough;
  }

  value(node: Node): number {
    if (node.kind === "number") return node.value;
    if (node.kind === "call" && !this.isTransparent(node)) {
      const seen = this.known.get(node) ?? Math.fround(BUILTINS[node.name]!(...node.args.map((a) => this.value(a))));
      this.known.set(node, seen);
      return seen;
    }
    return this.total(this.terms(node, 1));
  }

  private isTransparent(node: Node): boolean {
    return this.seesThrough && node.kind === "call" && node.name === "opaque4";
  }

  /** A sum as terms: nested sums opened, terms of the same factors put together. */
  private terms(node: Node, sign: number): Term[] {
    const all: Term[] = [];
    const add = (part: Node, coefficient: number): void => {
      if (part.kind === "sum") for (const [s, term] of part.terms) add(term, s * coefficient);
      else if (part.kind === "call" && this.isTransparent(part)) add(part.args[0]!, coefficient);
      else {
        const factors = this.factors(part);
        const scale = factors.reduce((c, f) => (f.kind === "number" ? c * f.value : c), coefficient);
        const rest = factors.filter((f) => f.kind !== "number");
        const same = all.find((t) => t.factors.length === rest.length && rest.every((f) => t.factors.includes(f)));
        if (same) same.coefficient = Math.fround(same.coefficient + scale);
        else all.push({ coefficient: scale, factors: rest });
      }
    };
    add(node, sign);
    return all.filter((t) => t.coefficient !== 0);
  }

  private factors(node: Node): Node[] {
    if (node.kind === "product") return node.factors.flatMap((f) => this.factors(f));
    if (node.kind === "call" && this.isTransparent(node)) return this.factors(node.args[0]!);
    return node.kind === "sum" && node.terms.length === 1
      ? [number(node.terms[0]![0]), ...this.factors(node.terms[0]![1])]
      : [node];
  }

  private total(terms: readonly Term[]): number {
    const open = this.withCommonFactor(terms).toSorted(() => this.random() - 0.5);
    let sum = 0;
    for (const [i, term] of open.entries()) {
      const product = this.product(term);
      sum = i > 0 && this.random() < 0.5 ? Math.fround(sum + product) : Math.fround(sum + Math.fround(product));
    }
    return sum;
  }

  /** a · b + a · c as a · (b + c), at times. */
  private withCommonFactor(terms: readonly Term[]): Term[] {
    const shared = terms.flatMap((t) => t.factors).find((f, _, all) => all.filter((g) => g === f).length > 1);
    if (!shared || this.random() < 0.5) return [...terms];
    const inside = terms.filter((t) => t.factors.includes(shared));
    const rest: Node = {
      kind: "sum",
      terms: inside.map((t) => [
        1,
        { kind: "product", factors: [number(t.coefficient), ...t.factors.toSpliced(t.factors.indexOf(shared), 1)] },
      ]),
    };
    return [...terms.filter((t) => !inside.includes(t)), { coefficient: 1, factors: [shared, rest] }];
  }

  /** Rounded after each factor but the last, which may be contracted into a sum. */
  private product({ coefficient, factors }: Term): number {
    const values = factors.map((f) => this.value(f));
    if (Math.abs(coefficient) !== 1 || values.length === 0) values.push(Math.fround(Math.abs(coefficient)));
    const order = values.toSorted(() => this.random() - 0.5);
    const last = order.pop()!;
    return Math.sign(coefficient) * order.reduce((p, v) => Math.fround(p * v), 1) * last;
  }
}

/** The largest `error` of the rest r and the multiple that was taken off, over arguments and orders of evaluation. */
function worst(
  names: (x: Node) => Names,
  xs: readonly number[],
  error: (x: number, r: number, n: number) => number,
  seesThrough: boolean,
): number {
  let state = 12345;
  const random = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  let most = 0;
  for (const x of xs) {
    const found = names(number(Math.fround(x)));
    const multiple = found.get("k") ?? found.get("n")!;
    for (let i = 0; i < 8; i++) {
      const machine = new FastMath(random, seesThrough);
      // The multiple is an integer: which one it is may depend on the order, and both parts follow it.
      most = Math.max(most, Math.abs(error(Math.fround(x), machine.value(found.get("r")!), machine.value(multiple))));
    }
  }
  return most;
}

const spread = (count: number, low: number, high: number): number[] =>
  Array.from({ length: count }, (_, i) => low + ((i + 0.37) * (high - low)) / count);

describe("sin and cos: the reduction by π/2", () => {
  const reduction = functionOf(read("trig"), "sin_cos4");
  // Opaque, as in a kernel: an argument is no number that the compiler knows.
  const names = (x: Node): Names =>
    run(reduction, [{ kind: "call", name: "upper24", args: [x] }, number(0)], new Map());
  const error = (x: number, r: number, k: number): number => r - (x - k * (Math.PI / 2));

  it("is right to f32 in any order of evaluation", () => {
    expect(worst(names, spread(600, -2000, 2000), error, false)).toBeLessThan(1.5e-7);
  });
  it("would not be without `opaque`", () => {
    expect(worst(names, spread(600, -2000, 2000), error, true)).toBeGreaterThan(1e-5);
  });
});

describe("geluTanh: the argument of exp with its rest", () => {
  const source = read("activations");
  const functions = new Map([["product_rest4", functionOf(source, "product_rest4")]]);
  const body = functionOf(source, "gelu_tanh4");
  const names = (x: Node): Names => run(body, [{ kind: "call", name: "upper24", args: [x] }], functions);
  const error = (x: number, r: number, n: number): number =>
    r + n * Math.LN2 + 2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);

  it("is right to f32 in any order of evaluation", () => {
    expect(worst(names, spread(600, -9.5, 5), error, false)).toBeLessThan(1.5e-7);
  });
  it("would not be without `opaque`", () => {
    expect(worst(names, spread(600, -9.5, 5), error, true)).toBeGreaterThan(1e-6);
  });
});
