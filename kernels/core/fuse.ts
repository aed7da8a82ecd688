/**
 * Neighbouring launches of `map` in a capture as one launch: each invocation computes all formulas for its granules, values pass on in
 * registers, and what nothing reads afterwards is not stored. The bits are those of the single launches: each value is rounded to its dtype,
 * and passes through an integer operation with a zero that the compiler does not know, so that no multiplication and addition of two
 * formulas become one rounding.
 */
import { grid1d, isFloat, kernel, library } from "../../engine/index.ts";
import type {
  Binding,
  DType,
  Device,
  Fused,
  FusionRule,
  Kernel,
  Launch,
  Library,
  Storage,
} from "../../engine/index.ts";
import { standard } from "./libraries.ts";

/**
 * How much of a kernel a formula is, by the dtype of its result, and how much one kernel may hold. Software Vulkan compiles 100 formulas of f32 in
 * 0.5 s, of bf16 in 1.2 s; its rounding to f16 is long code, and compiling it takes the square of the number: 12 in 0.7 s, 100 in 21 s.
 */
const WEIGHT: Readonly<Record<DType, number>> = { f32: 1, i32: 1, u32: 1, u8: 1, bf16: 2, f16: 8 };
const MAX_WEIGHT = 128;
const OPERANDS = ["a", "b", "c", "y"] as const;
/** Granules that one workgroup computes. */
const GRANULES_PER_GROUP = 256;

/** A value as it lies in memory, back as it is read, behind the zero that the compiler does not know; integers need none. */
const KEEP: Readonly<Partial<Record<DType, string>>> = {
  f32: "hidden(v, params.zero)",
  f16: "keep_f16(v, params.zero)",
  bf16: "unpack_bf16(pack_bf16(v) ^ vec2u(params.zero))",
  u8: "unpack_u8(pack_u8(v))",
};

/** `unpack_f16(pack_f16(v))` without its branch, which would be compiled once a formula. */
const ROUND_F16 = library(
  "keep_f16",
  `fn keep_f16(v: vec4f, zero: u32) -> vec4f {
  let u = bitcast<vec4u>(v);
  let size = u & vec4u(0x7fffffffu);
  let beyond = size >= vec4u(0x477ff000u); // as in pack_f16
  let c = select(v, vec4f(), beyond);
  let inside = vec4f(unpack2x16float(pack2x16float(c.xy) ^ zero), unpack2x16float(pack2x16float(c.zw) ^ zero));
  let not_finite = (u & vec4u(0x80000000u)) | select(vec4u(0x7f800000u), vec4u(0x7fc00000u), size > vec4u(0x7f800000u));
  return bitcast<vec4f>(select(bitcast<vec4u>(inside), not_finite ^ vec4u(zero), beyond));
}`,
);

/** A range of a buffer that the formulas read or write. */
interface Operand {
  readonly binding: Binding;
  readonly buffer: Launch["buffers"][number];
  readonly dtype: DType;
  /** Read before the launch writes it. */
  isRead: boolean;
  /** The storage that was written last in its place, and the value. */
  written: { readonly storage: Storage; readonly value: string } | null;
}

/** The formulas of a run as far as they go together. */
class Chain {
  /** Lines of the kernel's loop. */
  readonly body: string[] = [];
  readonly functions = new Map<string, string>();
  readonly libraries = new Set<Library>();
  readonly scalars: number[][] = [];
  readonly operands: Operand[] = [];
  private readonly formulas: WeakMap<Library, string>;

  constructor(formulas: WeakMap<Library, string>) {
    this.formulas = formulas;
  }

  /** Adds a launch; false if it uses a buffer or a library otherwise than those before it. */
  add(launch: Launch): boolean {
    const included = (launch.pipeline.uses.f as Library).libraries;
    if (included.some((l) => [...this.libraries].some((other) => other.name === l.name && other !== l))) return false;
    const places = OPERANDS.map((slot, i) => this.place(launch, slot, i));
    if (places.some((place) => place === null)) return false;
    const [a, b, c] = places.slice(0, 3).map((place, i) => {
      const value = this.read(place!);
      // A compiler that sees x - x may make 0 of it, which is wrong for infinities: single launches read x twice.
      return places.indexOf(place!) < i && isFloat(place!.dtype) ? `hidden(${value}, params.zero)` : value;
    });
    const y = places[3]!;
    const value = `v${this.body.length}`;
    const scalars = [...new Float32Array(launch.params!.buffer, launch.params!.byteOffset + 16, 4)];
    this.scalars.push(scalars);
    this.body.push(`let ${value} = ${this.functionOf(launch)}(${a}, ${b}, ${c}, params.s${this.body.length});`);
    y.written = { storage: launch.bindings[3]!.storage, value };
    return true;
  }

  /** The operands that the launch must bind if it ends here. */
  bound(isNeeded: (storage: Storage) => boolean): Operand[] {
    return this.operands.filter((o) => o.isRead || (o.written && isNeeded(o.written.storage)));
  }

  private place(launch: Launch, slot: (typeof OPERANDS)[number], i: number): Operand | null {
    const binding = launch.bindings[i]!;
    const buffer = launch.buffers[i]!;
    const dtype = launch.pipeline.uses[slot] as DType;
    const writes = slot === "y";
    let known: Operand | null = null;
    for (const other of this.operands) {
      if (other.buffer !== buffer) continue;
      if (other.binding.offset === binding.offset && other.binding.size === binding.size && other.dtype === dtype)
        known = other;
      else if (writes || other.written) return null; // WebGPU refuses a dispatch that writes a buffer and binds another range of it
    }
    if (known) return known;
    const operand: Operand = { binding, buffer, dtype, isRead: false, written: null };
    this.operands.push(operand);
    return operand;
  }

  private read(operand: Operand): string {
    if (operand.written) return operand.written.value;
    operand.isRead = true;
    return `x${this.operands.indexOf(operand)}`;
  }

  /** The name of the launch's formula for its dtypes. */
  private functionOf({ pipeline: { uses } }: Launch): string {
    const formula = uses.f as Library;
    const types = OPERANDS.map((slot) => uses[slot] as DType);
    const key = `${formula.name}#${formula.version} ${types.join()}`;
    const known = [...this.functions.keys()].indexOf(key);
    if (known >= 0) return `formula${known}`;
    const name = `formula${this.functions.size}`;
    const typed = this.formulas
      .get(formula)!
      .replace(/_(a|b|c|y)\b/g, (_, slot: "a" | "b" | "c" | "y") => `_${uses[slot] as DType}`);
    const result = types[3]!;
    const kept = KEEP[result];
    this.functions.set(
      key,
      `${typed.replace("apply_T", `${name}_of`)}
fn ${name}(a: V4_${types[0]!}, b: V4_${types[1]!}, c: V4_${types[2]!}, s: vec4f) -> V4_${result} {
  let v = ${name}_of(a, b, c, s);
  return ${kept ?? "v"};
}`,
    );
    for (const included of formula.libraries) this.libraries.add(included);
    if (result === "f16") this.libraries.add(ROUND_F16);
    return name;
  }
}

/** The rule of launches of `map`, whose slots are a, b, c, y and f, and whose parameters are granules and scalars. */
export function fusionRule(formulas: WeakMap<Library, string>): FusionRule {
  return (run, isNeeded, device) => {
    const count = longest(new Chain(formulas), run, isNeeded, device);
    if (count < 2) return null;
    const joint = run.slice(0, count);
    const chain = new Chain(formulas);
    for (const launch of joint) chain.add(launch);
    return fused(joint, chain, (storage) => isNeeded(storage, count));
  };
}

/** How many launches of `run` go together. Values that die within the chain need no buffer, so a longer chain may need fewer buffers. */
function longest(
  chain: Chain,
  run: Parameters<FusionRule>[0],
  isNeeded: Parameters<FusionRule>[1],
  device: Device,
): number {
  const limit = device.limits.maxStorageBuffersPerShaderStage;
  const granules = run[0]!.params![0]!;
  const most = Math.min(run.length, Math.floor(device.maxDispatchWork / (4 * granules)));
  let weight = 0;
  let fitting = 0;
  for (let count = 1; count <= most; count++) {
    const launch = run[count - 1]!;
    weight += WEIGHT[launch.pipeline.uses.y as DType];
    if (launch.params![0] !== granules || weight > MAX_WEIGHT || !chain.add(launch)) break;
    // What is read, or lives on, stays bound however long the chain is.
    if (chain.bound((storage) => storage.isLive).length > limit) break;
    if (chain.bound((storage) => isNeeded(storage, count)).length <= limit) fitting = count;
  }
  return fitting;
}

function fused(run: readonly Launch[], chain: Chain, isNeeded: (storage: Storage) => boolean): Fused {
  const operands = chain.bound(isNeeded);
  const all = chain.operands;
  const stores = operands.filter((o) => o.written && isNeeded(o.written.storage));
  const name = (o: Operand): string => `m${all.indexOf(o)}`;
  const access = (o: Operand): "read" | "write" | "read_write" =>
    stores.includes(o) ? (o.isRead ? "read_write" : "write") : "read";
  const bindings = Object.fromEntries(operands.map((o) => [name(o), access(o)]));
  const dtypes = new Set(run.flatMap((l) => OPERANDS.map((slot) => l.pipeline.uses[slot] as DType)));
  const granules = run[0]!.params![0]!;
  const text = (
    entry: string,
  ): string => `// Formulas of neighbouring elementwise launches in one; written by kernels/core/fuse.ts. Grid: flat over ceil(granules / 256), folded.
//#use grid
${[...dtypes].map((dtype) => `//#use ${dtype} as ${dtype}`).join("\n")}
${[...chain.libraries].map((l) => `//#use ${l.name}`).join("\n")}
struct Params {
  granules: u32,
  zero: u32,
${run.map((_, i) => `  s${i}: vec4f,`).join("\n")}
}
${operands.map((o, i) => `@group(0) @binding(${i}) var<storage, ${stores.includes(o) ? "read_write" : "read"}> ${name(o)}: array<Pack_${o.dtype}>;`).join("\n")}
@group(0) @binding(${operands.length}) var<uniform> params: Params;
fn hidden(v: vec4f, zero: u32) -> vec4f { return bitcast<vec4f>(bitcast<vec4u>(v) ^ vec4u(zero)); }
${[...chain.functions.values()].join("\n")}

@compute @workgroup_size(64)
fn ${entry}(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = flat_group(group, groups) * ${GRANULES_PER_GROUP}u;
  let end = min(params.granules, first + ${GRANULES_PER_GROUP}u);
  for (var i = first + lane; i < end; i += 64u) {
${operands
  .filter((o) => o.isRead)
  .map((o) => `    let x${all.indexOf(o)} = unpack_${o.dtype}(${name(o)}[i]);`)
  .join("\n")}
${chain.body.map((line) => `    ${line}`).join("\n")}
${stores.map((o) => `    ${name(o)}[i] = pack_${o.dtype}(${o.written!.value});`).join("\n")}
  }
}
`;
  const joint = declare(text, bindings, run.length, [...new Set([...standard, ...chain.libraries])]);
  return {
    count: run.length,
    kernel: joint,
    bindings: operands.map((o) => (stores.includes(o) ? { ...o.binding, storage: o.written!.storage } : o.binding)),
    buffers: operands.map((o) => o.buffer),
    params: { granules, zero: 0, ...Object.fromEntries(chain.scalars.map((s, i) => [`s${i}`, s])) },
    grid: grid1d(Math.ceil(granules / GRANULES_PER_GROUP)),
    label: labelOf(run),
    cost: {
      flops: run.reduce((sum, l) => sum + (l.cost?.flops ?? 0), 0),
      bytes: operands.reduce((sum, o) => sum + o.binding.size * (access(o) === "read_write" ? 2 : 1), 0),
    },
  };
}

/** Equal texts and libraries are one kernel: a chain that comes again, in another layer or capture, is compiled once. */
const declared = new Map<string, Kernel>();

function declare(
  text: (entry: string) => string,
  bindings: Readonly<Record<string, "read" | "write" | "read_write">>,
  formulas: number,
  libraries: readonly Library[],
): Kernel {
  const key = text("") + libraries.map(versions).join();
  const known = declared.get(key);
  if (known) return known;
  const name = `map_fused_${declared.size}`;
  const scalars = Object.fromEntries(Array.from({ length: formulas }, (_, i) => [`s${i}`, "vec4f" as const]));
  const made = kernel(name, text(name), bindings, { granules: "u32", zero: "u32", ...scalars }, libraries) as Kernel;
  declared.set(key, made);
  return made;
}

/** A library and what it includes, with the versions: a reloaded library has the name of the one before. */
const versions = ({ name, version, libraries }: Library): string =>
  `${name}#${version}(${libraries.map(versions).join()})`;

/** The labels of the launches that became one: the first, and how many follow. */
const labelOf = (run: readonly Launch[]): string => `${run[0]!.label} and ${run.length - 1} more`;
