/** Sums of products by Einstein's notation, as matrix products. */
import { ArgumentError, DTypeError, ShapeError, checkTensors, isFloat, scope } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { sum } from "../reduce/reduce.ts";
import { cast, expand, permute, reshape, slice } from "../views/views.ts";
import { matmul } from "./matmul.ts";

/** A tensor with a label for each of its dimensions, each once. */
interface Labelled {
  readonly tensor: Tensor;
  readonly labels: readonly string[];
}

interface Equation {
  readonly inputs: readonly (readonly string[])[];
  readonly output: readonly string[];
}

/**
 * `einsum("bij,bjk->bik", a, b)`: the sum over the labels that the result does not have of the products of the operands' elements, as
 * torch.einsum: letters for dimensions, repeated ones for diagonals, `...` for leading dimensions that broadcast; without `->` the result has
 * the letters that occur once, in alphabetical order. Operands are of one floating dtype, which the result has; they are contracted from left to
 * right, each pair by one matrix product.
 * @throws ArgumentError for an equation that does not parse, ShapeError for sizes that do not agree
 */
export function einsum(equation: string, ...operands: readonly Tensor[]): Tensor {
  checkTensors("einsum", ...operands);
  const { inputs, output } = parse(equation, operands);
  checkOperands(equation, operands, inputs);
  const sizes = sizesOf(equation, operands, inputs);
  return scope(() => {
    const parts = operands.map((tensor, i) => diagonals({ tensor, labels: inputs[i]! }));
    const whole = parts.reduce((left, right, i) => {
      const later = new Set([...output, ...parts.slice(i + 1).flatMap(({ labels }) => labels)]);
      return contract(left, right, later, sizes);
    });
    const left = summed(whole, new Set(output));
    const ordered = permute(
      left.tensor,
      output.map((label) => left.labels.indexOf(label)),
    );
    const wide = expand(
      ordered,
      output.map((label) => sizes.get(label)!),
    );
    return cast(wide, operands[0]!.dtype);
  });
}

/** Labels of the operands and of the result; those of `...` are numbers, counted from the last. */
function parse(equation: string, operands: readonly Tensor[]): Equation {
  const refuse = (what: string): never => {
    throw new ArgumentError(
      `einsum: the equation must be like "bij,bjk->bik", ${what}; got ${JSON.stringify(equation)}.`,
    );
  };
  if (typeof equation !== "string") refuse("a text");
  const [left, right, ...more] = equation.replaceAll(" ", "").split("->") as [string, string | undefined, ...string[]];
  const terms = left.split(",");
  if (more.length) refuse("with one -> at most");
  if (terms.length !== operands.length) refuse(`with a term for each of the ${operands.length} operands`);
  const labelsOf = (term: string, dots: number): string[] => {
    if (!/^[A-Za-z]*(\.\.\.)?[A-Za-z]*$/.test(term)) refuse("of letters and at most one ... a term");
    return (term.match(/\.\.\.|[A-Za-z]/g) ?? []).flatMap((label) =>
      label === "..." ? Array.from({ length: dots }, (_, i) => String(dots - i)) : [label],
    );
  };
  const dotsOf = terms.map((term, i) =>
    term.includes("...") ? operands[i]!.rank - term.replace("...", "").length : 0,
  );
  dotsOf.forEach((n, i) => {
    if (n < 0 || (!terms[i]!.includes("...") && terms[i]!.length !== operands[i]!.rank))
      throw new ShapeError(
        `einsum: term ${JSON.stringify(terms[i])} must have a letter for each dimension of operand ${i}; got ${operands[i]}. Change the equation ${JSON.stringify(equation)}.`,
      );
  });
  const inputs = terms.map((term, i) => labelsOf(term, dotsOf[i]!));
  const most = Math.max(...dotsOf);
  const all = inputs.flat();
  const output =
    right === undefined
      ? [
          ...labelsOf("...", most),
          ...[...new Set(all)].filter((l) => /[A-Za-z]/.test(l) && all.filter((o) => o === l).length === 1).sort(),
        ]
      : labelsOf(right, most);
  if (new Set(output).size !== output.length) refuse("with each letter once in the result");
  const unknown = output.find((label) => !all.includes(label));
  if (unknown !== undefined) refuse(`with letters of the operands in the result, not ${unknown}`);
  return { inputs, output };
}

function checkOperands(equation: string, operands: readonly Tensor[], inputs: Equation["inputs"]): void {
  const [first] = operands;
  for (const [i, t] of operands.entries())
    if (!isFloat(t.dtype) || t.dtype !== first!.dtype)
      throw new DTypeError(
        `einsum: operands must be of one floating dtype; got ${operands.join(", ")}. Cast operand ${i} of ${JSON.stringify(equation)}: it has labels ${inputs[i]!.join("")}.`,
      );
}

/** Size of each label; dimensions of size 1 broadcast. */
function sizesOf(equation: string, operands: readonly Tensor[], inputs: Equation["inputs"]): Map<string, number> {
  const sizes = new Map<string, number>();
  for (const [i, labels] of inputs.entries())
    for (const [d, label] of labels.entries()) {
      const n = operands[i]!.shape[d]!;
      const known = sizes.get(label) ?? 1;
      if (known !== n && known !== 1 && n !== 1)
        throw new ShapeError(
          `einsum: dimensions ${label} of ${JSON.stringify(equation)} must be equal; got ${known} and ${n}, in ${operands[i]}. Check the operands.`,
        );
      sizes.set(label, known === 1 ? n : known);
    }
  return sizes;
}

/** The diagonal of dimensions with one label. */
function diagonals({ tensor, labels }: Labelled): Labelled {
  const twice = labels.find((label, d) => labels.indexOf(label) !== d);
  if (twice === undefined) return { tensor, labels };
  const a = labels.indexOf(twice);
  const b = labels.indexOf(twice, a + 1);
  const n = tensor.shape[a]!;
  if (tensor.shape[b] !== n)
    throw new ShapeError(
      `einsum: a diagonal must be of dimensions of one size; got ${n} and ${tensor.shape[b]} of ${tensor}.`,
    );
  const rest = [...labels.keys()].filter((d) => d !== a && d !== b);
  const flat = reshape(permute(tensor, [...rest, a, b]), [...rest.map((d) => tensor.shape[d]!), n * n]);
  return diagonals({ tensor: slice(flat, -1, 0, n * n, n + 1), labels: [...rest.map((d) => labels[d]!), twice] });
}

/** Summed over the dimensions whose labels are not in `kept`. */
function summed({ tensor, labels }: Labelled, kept: ReadonlySet<string>): Labelled {
  const dims = [...labels.keys()].filter((d) => !kept.has(labels[d]!));
  if (!dims.length) return { tensor, labels };
  const rest = [...labels.keys()].filter((d) => !dims.includes(d));
  const isOne = dims.every((d) => tensor.shape[d] === 1);
  return {
    tensor: isOne
      ? reshape(
          tensor,
          rest.map((d) => tensor.shape[d]!),
        )
      : sum(tensor, dims),
    labels: rest.map((d) => labels[d]!),
  };
}

/** Labels of dimensions that do not broadcast. */
const wideLabels = ({ tensor, labels }: Labelled): string[] => labels.filter((_, d) => tensor.shape[d] !== 1);

/**
 * The product of two, summed over the labels that are not in `later`: one matrix product, whose batches are the labels of both that stay. As in
 * PyTorch, an operand is first summed over labels along which the other one does not change.
 */
function contract(a: Labelled, b: Labelled, later: ReadonlySet<string>, sizes: ReadonlyMap<string, number>): Labelled {
  const wide = wideLabels(b);
  const kept = new Set([...later, ...wideLabels(a).filter((label) => wide.includes(label))]);
  const [left, right] = [summed(a, kept), summed(b, kept)];
  const both = left.labels.filter((label) => right.labels.includes(label));
  const batch = both.filter((label) => later.has(label));
  const inner = both.filter((label) => !later.has(label));
  const rows = left.labels.filter((label) => !both.includes(label));
  const columns = right.labels.filter((label) => !both.includes(label));
  const sizesOfLabels = (labels: readonly string[]): number[] => labels.map((label) => sizes.get(label)!);
  const count = (labels: readonly string[]): number => sizesOfLabels(labels).reduce((n, m) => n * m, 1);
  const side = ({ tensor, labels }: Labelled, groups: readonly (readonly string[])[]): Tensor => {
    const order = groups.flat();
    const turned = permute(
      tensor,
      order.map((label) => labels.indexOf(label)),
    );
    return reshape(expand(turned, sizesOfLabels(order)), groups.map(count));
  };
  const [x, y] = [side(left, [batch, rows, inner]), side(right, [batch, inner, columns])];
  const labels = [...batch, ...rows, ...columns];
  return { tensor: reshape(matmul(x, y, { dtype: "f32" }), sizesOfLabels(labels)), labels };
}
