/** Pillow's bicubic as its documentation describes it, one output value at a time, in float64 and exact integers. */

function kernel(x: number): number {
  const t = Math.abs(x);
  const a = -0.5;
  if (t >= 2) return 0;
  return t < 1 ? ((a + 2) * t - (a + 3)) * t * t + 1 : (((t - 5) * t + 8) * t - 4) * a;
}

/** Weight of every input for output `i`, in units of 2^-22. */
function row(inputs: number, outputs: number, i: number): Map<number, bigint> {
  const s = inputs / outputs;
  const fs = Math.max(1, s);
  const c = (i + 0.5) * s;
  const lo = Math.max(0, Math.floor(c - 2 * fs + 0.5));
  const hi = Math.min(inputs, Math.floor(c + 2 * fs + 0.5));
  const raw: number[] = [];
  for (let j = lo; j < hi; j++) raw.push(kernel((j - c + 0.5) * (1 / fs)));
  const total = raw.reduce((sum, w) => sum + w, 0);
  return new Map(
    raw.map((w, k) => {
      const fixed = (w / total) * 4194304;
      return [lo + k, BigInt(fixed < 0 ? Math.ceil(fixed - 0.5) : Math.floor(fixed + 0.5))];
    }),
  );
}

/** `at(line, i)` for i < inputs → `lines` × `outputs` values, along one axis. */
function pass(lines: number, inputs: number, outputs: number, at: (line: number, i: number) => number): number[][] {
  if (inputs === outputs)
    return Array.from({ length: lines }, (_, l) => Array.from({ length: inputs }, (__, i) => at(l, i)));
  const rows = Array.from({ length: outputs }, (_, i) => row(inputs, outputs, i));
  return Array.from({ length: lines }, (_, l) =>
    rows.map((weights) => {
      let sum = 2097152n;
      for (const [j, weight] of weights) sum += weight * BigInt(at(l, j));
      return Math.min(255, Math.max(0, Number(sum >> 22n)));
    }),
  );
}

/** `data` [height, width, 3] → [newHeight, newWidth, 3]. */
export function pillowBicubic(
  data: Uint8Array,
  width: number,
  height: number,
  newWidth: number,
  newHeight: number,
): Uint8Array {
  const out = new Uint8Array(newWidth * newHeight * 3);
  for (let c = 0; c < 3; c++) {
    const wide = pass(height, width, newWidth, (y, x) => data[(y * width + x) * 3 + c]!);
    const done = pass(newWidth, height, newHeight, (x, y) => wide[y]![x]!);
    for (let y = 0; y < newHeight; y++)
      for (let x = 0; x < newWidth; x++) out[(y * newWidth + x) * 3 + c] = done[x]![y]!;
  }
  return out;
}
