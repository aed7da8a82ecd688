/**
 * What `wgsl_reflect` says about a kernel's source, and its race detector, as tests want them. Nothing of it runs outside tests.
 *
 * Version 1.6.0 is mended here. Its parser takes the name `block` for a word of its own and stumbles over `vec4<bool>(a >= b)`. The
 * detector passes over a barrier that opens a block, shares the result of a helper function among all invocations, and compares all accesses
 * of a phase in pairs. What its interpreter does not know (constants used before their line, `while`, `workgroupUniformLoad`, `array(…)`
 * without a type) is written out for it.
 */
import {
  CallExpr,
  MemoryTracker,
  ResourceType,
  StructInfo,
  WgslDebug,
  WgslExec,
  WgslReflect,
  detectRaces,
} from "wgsl_reflect/wgsl_reflect.module.js";
import type { RaceReport, TypeInfo } from "wgsl_reflect/wgsl_reflect.module.js";

export interface ReflectedMember {
  readonly name: string;
  readonly type: string;
  readonly offset: number;
}

export interface ReflectedBinding {
  readonly name: string;
  readonly group: number;
  readonly binding: number;
  /** "uniform", "read" or "read_write". */
  readonly access: string;
}

export interface Reflection {
  readonly entryPoints: readonly string[];
  readonly workgroupSize: readonly [number, number, number];
  /** In the order of group and binding. */
  readonly bindings: readonly ReflectedBinding[];
  /** The uniform struct: its name, members and size in bytes; null without one. */
  readonly params: {
    readonly struct: string;
    readonly variable: string;
    readonly members: readonly ReflectedMember[];
    readonly bytes: number;
  } | null;
  /** Bytes of all `var<workgroup>`. */
  readonly workgroupBytes: number;
}

/** Kernels that are the subgroup variant of another and nothing else: launched only if subgroups of their size are. */
export const SUBGROUPS_ONLY: Readonly<Record<string, string>> = {
  conv2d_3x3: "subgroup variant of conv2d",
  conv2d_subgroup_matrix: "subgroup-matrix variant of conv2d",
  conv2d_weight_3x3: "subgroup variant of conv2d_weight",
  conv2d_winograd: "subgroup variant of conv2d",
  conv2d_winograd_input: "subgroup variant of conv2d",
  attention_subgroup_matrix: "subgroup-matrix variant of attention",
  attention_subgroup_matrix_key: "subgroup-matrix variant of attention's gradients of k and v",
  attention_subgroup_matrix_query: "subgroup-matrix variant of attention's gradient of q",
  matmul_subgroup_matrix: "subgroup-matrix variant of matmul",
};

/** True if the source calls for subgroups. */
export const usesSubgroups = (source: string): boolean => /^enable\s+subgroups|\bsubgroup[A-Z]\w*\(/m.test(source);

const spelled = (type: TypeInfo): string => type.getTypeName().replace(/^vec([234])<([fiu])32>$/, "vec$1$2");

/** In the parser's words: it knows no subgroup matrices, which stand as vectors, and their loads and stores as calls without a type. */
const parsable = (source: string): string =>
  source
    .replace(/\bsubgroup_matrix_\w+<[^<>]*>/g, "vec4f")
    .replace(/\b(subgroupMatrix\w+)<[^<>]*>\(/g, "$1(")
    .replace(/\bblock\b/g, "block_")
    .replace(/\bvec4<bool>\((\w+) >= (\w+)\)/g, "vec4<bool>($2 <= $1)");

/** Reads names, bindings, layout and workgroup memory out of WGSL. */
export function reflect(wgsl: string): Reflection {
  const source = parsable(wgsl);
  const seen = new WgslReflect(source);
  const bindings = [...seen.storage, ...seen.uniforms]
    .map((v) => ({
      name: v.name,
      group: v.group,
      binding: v.binding,
      access: v.resourceType === ResourceType.Uniform ? "uniform" : v.access,
    }))
    .sort((a, b) => a.group - b.group || a.binding - b.binding);
  const uniform = seen.uniforms[0];
  const type = uniform?.type;
  return {
    entryPoints: seen.entry.compute.map((f) => f.name),
    workgroupSize: seen.entry.compute[0]?.workgroupSize ?? [0, 0, 0],
    bindings,
    params:
      uniform && type instanceof StructInfo
        ? {
            struct: type.name,
            variable: uniform.name,
            members: type.members.map((m) => ({ name: m.name, type: spelled(m.type), offset: m.offset })),
            bytes: type.size,
          }
        : null,
    workgroupBytes: workgroupBytes(source, seen),
  };
}

/** `wgsl_reflect` lists no workgroup variables: their types are looked up by a struct that is put beside them. */
function workgroupBytes(source: string, seen: WgslReflect): number {
  const types = [...source.matchAll(/^var<workgroup>\s+\w+\s*:\s*([^;]+);/gm)].map((m) => m[1]!);
  if (!types.length) return 0;
  const members = types.map((type, i) => `member_${i}: ${type},`).join(" ");
  seen.update(`${source}\nstruct WorkgroupMemory { ${members} }`);
  return seen.structs.find((s) => s.name === "WorkgroupMemory")!.size;
}

/** A tracker that looks at each 4-byte word once: who wrote it, who read it since the last barrier. */
interface Word {
  writer: number;
  readers: Set<number>;
  line: number;
}
const phases = new WeakMap<MemoryTracker, Map<string, Word>>();

Object.assign(MemoryTracker.prototype, {
  record(
    this: MemoryTracker,
    buffer: string,
    offset: number,
    size: number,
    kind: "read" | "write",
    atomic: boolean,
  ): void {
    if (atomic) return;
    const words = phases.get(this) ?? new Map<string, Word>();
    phases.set(this, words);
    const lane = this.currentInvocation;
    for (let at = offset - (offset % 4); at < offset + size; at += 4) {
      const key = `${buffer} ${at}`;
      let word = words.get(key);
      if (!word) words.set(key, (word = { writer: -1, readers: new Set(), line: 0 }));
      const other =
        word.writer >= 0 && word.writer !== lane
          ? word.writer
          : kind === "write"
            ? [...word.readers].find((r) => r !== lane)
            : undefined;
      if (other !== undefined && this.races.length < 10)
        this.races.push(report(buffer, at, kind, lane, this.currentLine, other, word.line));
      if (kind === "write") word.writer = lane;
      else if (word.readers.size < 2) word.readers.add(lane);
      word.line = this.currentLine;
    }
  },
  endPhase(this: MemoryTracker): void {
    phases.delete(this);
  },
});

function report(
  bufferId: string,
  byte: number,
  kind: "read" | "write",
  lane: number,
  line: number,
  other: number,
  otherLine: number,
): RaceReport {
  const access = { bufferId, offset: byte, size: 4, kind, atomic: false, invocation: lane, line };
  return {
    bufferId,
    byte,
    a: access,
    b: { ...access, invocation: other, line: otherLine },
    message: `${bufferId} byte ${byte}: invocation ${lane} (${kind}, line ${line}) and invocation ${other} (line ${otherLine}) without a barrier between`,
  };
}

// What a helper function returned waits for the invocation (the stack) that called it, for one use.
const returned = new WeakMap<object, WeakMap<CallExpr, unknown>>();
let stack: object = {};
const methodOf = <T extends object, K extends keyof T>(prototype: T, name: K): T[K] =>
  Object.getOwnPropertyDescriptor(prototype, name)!.value as T[K];
const stepStack = methodOf(WgslDebug.prototype, "stepStack");
const evaluate = methodOf(WgslExec.prototype, "_evalCall");
Object.assign(WgslDebug.prototype, {
  stepStack(this: WgslDebug, of: Parameters<typeof stepStack>[0], into?: boolean): boolean {
    stack = of;
    return stepStack.call(this, of, into);
  },
});
Object.assign(CallExpr.prototype, {
  setCachedReturnValue(this: CallExpr, value: unknown): void {
    const values = returned.get(stack) ?? new WeakMap<CallExpr, unknown>();
    returned.set(stack, values);
    values.set(this, value);
  },
});
Object.assign(WgslExec.prototype, {
  _evalCall(this: WgslExec, node: CallExpr, context: Parameters<typeof evaluate>[1]): ReturnType<typeof evaluate> {
    const values = returned.get(stack);
    node.cachedReturnValue = values?.get(node) ?? null;
    values?.delete(node);
    try {
      return evaluate.call(this, node, context);
    } finally {
      node.cachedReturnValue = null;
    }
  },
});

/** The same program in words that the interpreter knows. */
function plainer(source: string): string {
  let count = 0;
  const constants: string[] = [];
  const rest = source.replace(/^const [^;\n]*;/gm, (line) => {
    constants.push(line);
    return "";
  });
  return [...constants, rest]
    .join("\n")
    .replace(
      /\blet (\w+) = workgroupUniformLoad\(&([^()]*)\);/g,
      "workgroupBarrier(); let $1 = $2; workgroupBarrier();",
    )
    .replace(/\bwhile \((.*)\) \{/g, "for (; $1; ) {")
    .replace(/= array\(([^()]*)\);/g, (_, items: string) => `= array<vec4f, ${items.split(",").length}>(${items});`)
    .replace(/\bworkgroupBarrier\(\);/g, (barrier) => `let before_barrier_${count++} = 0u; ${barrier}`);
}

/**
 * Runs one workgroup in lockstep and reports accesses of two invocations to one word without a barrier between, and barriers that not
 * all of them reach.
 * @param buffers bytes of each storage binding, in order; contents matter if they steer control flow or addresses
 * @param params the bytes of the uniform struct, bound after them
 */
export function races(
  wgsl: string,
  entryPoint: string,
  grid: readonly number[],
  buffers: readonly ArrayBuffer[],
  params: Uint32Array | null,
): string[] {
  const stepped = plainer(parsable(wgsl));
  const group: Record<string, unknown> = {};
  for (const [i, buffer] of buffers.entries()) group[i] = buffer;
  if (params) group[buffers.length] = { uniform: params.slice().buffer };
  const said: string[] = [];
  const { error } = console;
  console.error = (...words: unknown[]): void => void said.push(words.join(" "));
  try {
    const found = detectRaces(stepped, entryPoint, [...grid], { 0: group });
    return [...found.races.map((r) => r.message), ...found.errors, ...said.slice(0, 5)];
  } finally {
    console.error = error;
  }
}
