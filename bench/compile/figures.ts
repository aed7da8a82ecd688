/** From what a driver tells about a pipeline to the figures of the table. */
import type { Chip } from "./chips.ts";

/** A line of the layer. */
export interface Pipeline {
  readonly label: string;
  readonly result: number;
  readonly invocations: number;
  readonly shared: number;
  readonly subgroup?: number;
  readonly statistics?: Readonly<Record<string, number>>;
  readonly code?: string;
}

export interface Figures {
  readonly lanes: number;
  readonly registers: number;
  /** Vector registers, and scalar or predicate registers, that did not fit. */
  readonly spills: number;
  readonly scalarSpills: number;
  /** Bytes of memory of its own that an invocation (NVIDIA) or a wave (AMD) takes. */
  readonly scratch: number;
  /** Bytes of workgroup memory. */
  readonly shared: number;
  /** Waves a SIMD, warps a multiprocessor. */
  readonly waves: number;
  /** Instructions of the innermost loop with the most arithmetic, and FMAs per 100 of them; 0 without a loop. */
  readonly loop: number;
  readonly fma: number;
  /** In the whole pipeline: divisions of integers, matrix instructions. */
  readonly div: number;
  readonly matrix: number;
}

const FMA = /^(v_(dual_)?(fma|fmac|fmaak|fmamk|pk_fma|mad_f|mac_f|dot\d)|[fhd]fma2?\b)/;
const MATRIX = /^(v_s?wmma|v_mfma|[hi]mma)/;
/** A constant that the expansion of each division of 32-bit integers has. */
const DIVISION = /0x4f7ffffe|rcp_iflag/;

interface Block {
  readonly lines: string[];
  next: number[];
}

/** AMD's disassembly: instructions, labels `BB3:`, branches by label. Blocks lie in their order. */
function amdBlocks(code: string): Block[] {
  const blocks: Block[] = [{ lines: [], next: [] }];
  const places = new Map<string, number>();
  const branches: [number, string][] = [];
  for (const raw of code.split("\n")) {
    const line = raw.replace(/;.*/, "").trim();
    const label = /^(BB\d+):/.exec(line)?.[1];
    if (label) {
      places.set(label, blocks.length);
      blocks.push({ lines: [], next: [] });
    } else if (/^(s|v|ds|buffer|global|flat|scratch)_/.test(line)) {
      blocks.at(-1)!.lines.push(line);
      const target = /^s_c?branch\S*\s+(BB\d+)/.exec(line)?.[1];
      if (target) branches.push([blocks.length - 1, target]);
    }
  }
  for (const [from, label] of branches) blocks[from]!.next.push(places.get(label)!);
  blocks.forEach((b, i) => i + 1 < blocks.length && b.next.push(i + 1));
  return blocks;
}

/** NAK's print: `block 1 … {`, lines, `} -> [1, 9]`. */
function nvidiaBlocks(code: string): Block[] {
  const blocks: Block[] = [];
  for (const raw of code.split("\n")) {
    const next = /^\} -> \[(.*)\]/.exec(raw)?.[1];
    if (raw.startsWith("block")) blocks.push({ lines: [], next: [] });
    else if (next !== undefined) blocks.at(-1)!.next = next.split(", ").filter(Boolean).map(Number);
    else if (/^[@ ]/.test(raw) && blocks.length)
      blocks.at(-1)!.lines.push(
        raw
          .replace(/^@\S+/, "")
          .replace(/^.*?\s=\s/, "")
          .trim(),
      );
  }
  return blocks;
}

/** Blocks from which `to` is reached without passing through it, and itself: the loop that an edge back to it closes. */
function bodyOf(blocks: readonly Block[], to: number, from: number): Set<number> {
  const body = new Set([to]);
  const open = [from];
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    if (body.has(at)) continue;
    body.add(at);
    blocks.forEach((b, i) => b.next.includes(at!) && open.push(i));
  }
  return body;
}

/** Edges that close a loop: found by walking from the first block, those that lead to a block that is under way. */
function backEdges(blocks: readonly Block[]): [number, number][] {
  const edges: [number, number][] = [];
  const state = new Map<number, "open" | "done">();
  const walk: { at: number; turn: number }[] = [{ at: 0, turn: 0 }];
  state.set(0, "open");
  while (walk.length) {
    const top = walk.at(-1)!;
    const to = blocks[top.at]?.next[top.turn++];
    if (to === undefined) {
      state.set(top.at, "done");
      walk.pop();
    } else if (state.get(to) === "open") edges.push([top.at, to]);
    else if (!state.has(to)) {
      state.set(to, "open");
      walk.push({ at: to, turn: 0 });
    }
  }
  return edges;
}

const count = (lines: readonly string[], what: RegExp): number =>
  lines.reduce((sum, l) => sum + l.split("::").filter((half) => what.test(half.trim())).length, 0);

/** The lines of the innermost loop with most arithmetic. */
function hotLoop(blocks: readonly Block[]): string[] {
  const bodies = new Map<number, Set<number>>();
  for (const [from, to] of backEdges(blocks)) {
    const body = bodyOf(blocks, to, from);
    for (const at of bodies.get(to) ?? []) body.add(at);
    bodies.set(to, body);
  }
  const inner = [...bodies].filter(([head, body]) => ![...bodies.keys()].some((h) => h !== head && body.has(h)));
  const loops = inner.map(([, body]) => [...body].flatMap((i) => blocks[i]!.lines));
  const weight = (l: readonly string[]): number => 1e6 * count(l, MATRIX) + 1e3 * count(l, FMA) + l.length;
  return loops.toSorted((a, b) => weight(b) - weight(a))[0] ?? [];
}

/** Warps that a multiprocessor of NVIDIA's holds: bound by registers (which the driver counts), workgroup memory and workgroups. */
function warps({ groups, kib, reserved }: Chip, { invocations, shared, statistics }: Pipeline): number {
  const each = Math.max(1, Math.ceil(invocations / 32));
  const byRegisters = Math.floor(statistics!["Max warps/SM"]! / each);
  const byMemory = shared ? Math.floor((kib! * 1024) / (shared + reserved! * 1024)) : Infinity;
  return each * Math.min(groups!, byRegisters, byMemory);
}

/** Workgroup memory of a pair of compute units, whose four SIMDs share it. */
const AMD_SHARED = 128 * 1024;

/** Waves that a SIMD of AMD's holds, as its driver counts them. */
function waves({ pool, most }: Chip, { invocations, shared, subgroup, statistics }: Pipeline): number {
  const each = subgroup! / 32;
  if (pool === undefined) return statistics!["Subgroups per SIMD"]! / each;
  const byRegisters = Math.floor((pool * 2) / each / statistics!["VGPRs"]!);
  const groups = shared ? Math.floor(AMD_SHARED / shared) : Infinity;
  return Math.min(most, byRegisters, Math.ceil((groups * Math.ceil(invocations / subgroup!)) / 4));
}

export function figuresOf(chip: Chip, pipeline: Pipeline): Figures {
  const s = pipeline.statistics ?? {};
  const isAmd = chip.vendor === "amd";
  const blocks = (isAmd ? amdBlocks : nvidiaBlocks)(pipeline.code ?? "");
  const all = blocks.flatMap((b) => b.lines);
  const loop = hotLoop(blocks);
  const of = (amd: string, nvidia: string): number => s[isAmd ? amd : nvidia] ?? NaN;
  return {
    lanes: pipeline.subgroup ?? 0,
    registers: of("VGPRs", "Number of GPRs"),
    spills: of("Spilled VGPRs", "Spills to memory"),
    scalarSpills: of("Spilled SGPRs", "Spills to reg"),
    scratch: of("Scratch size", "SLM size"),
    shared: pipeline.shared,
    waves: (isAmd ? waves : warps)(chip, pipeline),
    loop: loop.length,
    fma: loop.length ? Math.round((100 * count(loop, FMA)) / loop.length) : 0,
    div: count(all, DIVISION),
    matrix: count(all, MATRIX),
  };
}
