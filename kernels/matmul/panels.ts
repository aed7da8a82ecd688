/** Operands of large products in the order in which `matmul_register` reads them on software devices. Used by `launch.ts`. */
import { elementBytes, empty, kernel, launch } from "../../engine/index.ts";
import type { DType, Device, Tensor } from "../../engine/index.ts";
import { standard } from "../core/libraries.ts";
import { MAX_GROUPS } from "./parts.ts";
import type { BoundPart } from "./parts.ts";

const pack = kernel(
  "matmul_panels",
  new URL("./matmul_panels.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { size: "vec4u", x: "vec4u" },
  standard,
);

/** `lines` rows of A or columns of B of `terms` terms, in panels of `width` lines. */
interface PanelShape {
  readonly lines: number;
  readonly terms: number;
  readonly width: number;
}

/** Fours of lines and of terms, with what pads panels and pieces. */
const padded = ({ lines, terms, width }: PanelShape): { fours: number; pieces: number } => ({
  fours: (Math.ceil(lines / width) * width) / 4,
  pieces: Math.ceil(terms / 4),
});

/** True if the panels of a part of `t` fit a binding; a single one always does where the variant runs. */
export function panelsFit(t: Tensor, shape: PanelShape): boolean {
  const { fours, pieces } = padded(shape);
  return elementBytes(t.dtype, 16 * fours * pieces) <= t.device.limits.maxStorageBufferBindingSize;
}

/**
 * The panels (see `matmul_panels.wgsl`) of a part of an operand.
 * @param shape with `inside` the terms of a line are neighbours, and lines lie `step` elements apart; else the other way round
 */
export function inPanels(
  operand: "a" | "b",
  { bound, offset }: BoundPart,
  dtype: DType,
  device: Device,
  shape: PanelShape & { readonly inside: boolean; readonly step: number },
): Tensor {
  const { lines, terms, inside, step, width } = shape;
  const { fours, pieces } = padded(shape);
  const y = empty([16 * fours * pieces], { dtype, device });
  const rows = inside ? fours : pieces;
  launch(pack, {
    use: { x: dtype },
    constants: { WIDTH: width },
    buffers: { x: bound, y },
    params: {
      size: [Math.ceil((inside ? terms : lines) / 4), inside ? lines : terms, fours, pieces],
      x: [offset, step, inside ? 1 : 0, operand === "a" ? 1 : 0],
    },
    grid: [Math.ceil((inside ? pieces : fours) / 64), Math.min(rows, MAX_GROUPS), Math.ceil(rows / MAX_GROUPS)],
    cost: { flops: 0, bytes: elementBytes(dtype, lines * terms) + elementBytes(dtype, y.size) },
  });
  return y;
}
