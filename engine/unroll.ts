/**
 * Loops that are written out before WGSL is compiled: `for (var i = 0u; i < COUNT; i++) { //#unroll` becomes COUNT copies of its body with a constant
 * `i`. Arrays that only such loops index lie in registers on every compiler; those that drivers unroll by themselves do so up to sizes of their own.
 */

const HEAD = /for \(var (\w+) = 0u; \1 < ([^;]+); \1\+\+\) \{ \/\/#unroll[ \t]*\n/;
const CONST = /^const[ \t]+(\w+)(?:[ \t]*:[ \t]*\w+)?[ \t]*=[ \t]*([^;]*);/gm;

/** Returns `source` with its marked loops written out. Throws `RangeError` if a count is not a whole number made of constants. */
export function unrolled(source: string): string {
  if (!source.includes("//#unroll")) return source;
  const constants = new Map(Array.from(source.matchAll(CONST), ([, name, value]) => [name!, value!]));
  const expand = (text: string): string => {
    const head = HEAD.exec(text);
    if (!head) return text;
    const [line, name, count] = head;
    const start = head.index + line.length;
    const end = closing(text, start);
    const body = text.slice(start, end);
    const copies = Array.from(
      { length: evaluate(count!, constants) },
      (_, i) => `{ const ${name} = ${i}u;\n${body}}\n`,
    );
    return text.slice(0, head.index) + expand(copies.join("")) + expand(text.slice(end + 1));
  };
  const done = expand(source);
  if (done.includes("//#unroll"))
    throw new RangeError("a loop marked //#unroll must have the form for (var i = 0u; i < COUNT; i++) {");
  return done;
}

/** Place of the brace that closes the block which begins at `start`; comments do not count. */
function closing(text: string, start: number): number {
  let depth = 1;
  for (let i = start; i < text.length; i++) {
    if (text.startsWith("//", i)) i = text.indexOf("\n", i);
    else if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return i;
  }
  throw new RangeError("a loop marked //#unroll must end");
}

/** Value of an expression of whole numbers, names of constants, + - * / %, parentheses, min and max. */
function evaluate(expression: string, constants: ReadonlyMap<string, string>): number {
  const tokens = expression.match(/\w+|[-+*/%(),]/g) ?? [];
  let at = 0;
  const fail = (): never => {
    throw new RangeError(`the count of a loop marked //#unroll must be made of constants; got ${expression}`);
  };
  const take = (token: string): void => void (tokens[at++] === token || fail());
  const value = (): number => {
    const token = tokens[at++] ?? fail();
    if (/^\d+u?$/.test(token)) return parseInt(token, 10);
    if (token === "(") {
      const inner = sum();
      take(")");
      return inner;
    }
    if (token === "min" || token === "max") {
      take("(");
      const first = sum();
      take(",");
      const second = sum();
      take(")");
      return Math[token](first, second);
    }
    return evaluate(constants.get(token) ?? fail(), constants);
  };
  const product = (): number => {
    let left = value();
    while (/^[*/%]$/.test(tokens[at] ?? "")) {
      const operator = tokens[at++];
      const right = value();
      left = operator === "*" ? left * right : operator === "/" ? Math.floor(left / right) : left % right;
    }
    return left;
  };
  const sum = (): number => {
    let left = product();
    while (/^[-+]$/.test(tokens[at] ?? "")) left = tokens[at++] === "+" ? left + product() : left - product();
    return left;
  };
  const result = sum();
  return at === tokens.length && Number.isInteger(result) && result >= 0 ? result : fail();
}
