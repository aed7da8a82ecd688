/** The cache of bind groups: a steady loop reuses those of its first steps. */
import { collectGarbage } from "./platform.ts";
import type { Launch } from "./types.ts";

const MAX_BIND_GROUPS = 16384;
/**
 * Force a garbage collection after this many evicted bind groups. On lavapipe each is a memory mapping, and Linux
 * allows a process 65,530.
 */
const MAX_EVICTED = 4096;

/** A bind group and what it was made for: the pipeline, then id, offset and size of each buffer. */
interface Entry {
  readonly group: GPUBindGroup;
  readonly arenaName: string;
  readonly made: readonly number[];
}

export class BindGroups {
  private readonly gpu: GPUDevice;
  /** Entries by hash: a launch looks one up without making a string. */
  private readonly known = new Map<number, Entry[]>();
  private size = 0;
  private count = 0;
  /** Bind groups evicted since the last garbage collection. */
  private evicted = 0;

  constructor(gpu: GPUDevice) {
    this.gpu = gpu;
  }

  /** Bind groups created since the device was created. */
  get created(): number {
    return this.count;
  }

  /** Returns the bind group of a launch with `arena` as its uniform buffer. Equal `arenaName`s mean the same buffer. */
  get(launch: Launch, arena: GPUBuffer, arenaName = ""): GPUBindGroup {
    const hash = hashOf(launch);
    const known = this.known.get(hash);
    if (known) for (const entry of known) if (isFor(entry, launch, arenaName)) return entry.group;
    const group = this.create(launch, arena);
    // Programs whose sizes keep changing would grow the cache without bound: evict the oldest quarter.
    if (this.size >= MAX_BIND_GROUPS) {
      let left = MAX_BIND_GROUPS / 4;
      this.evict(() => left-- > 0);
    }
    this.add(hash, { group, arenaName, made: [launch.pipeline.id, ...partsOf(launch)] });
    return group;
  }

  private add(hash: number, entry: Entry): void {
    const same = this.known.get(hash);
    if (same) same.push(entry);
    else this.known.set(hash, [entry]);
    this.size++;
  }

  /** Evicts the bind groups made for the arenas whose names begin with `arenaName` (those of a capture that ended). */
  drop(arenaName: string): void {
    this.evict((entry) => entry.arenaName.startsWith(arenaName));
  }

  clear(): void {
    this.known.clear();
    this.size = 0;
  }

  private create({ pipeline, bindings, buffers, params }: Launch, arena: GPUBuffer): GPUBindGroup {
    for (const buffer of buffers) buffer.markBound();
    const entries: GPUBindGroupEntry[] = bindings.map(({ offset, size }, binding) => ({
      binding,
      resource: { buffer: buffers[binding]!.gpu!, offset, size },
    }));
    if (params)
      entries.push({ binding: entries.length, resource: { buffer: arena, offset: 0, size: params.byteLength } });
    this.count++;
    return this.gpu.createBindGroup({ layout: pipeline.layout!, entries });
  }

  /** Evicts the entries for which `isDoomed`, which is asked in the order in which their hashes came. */
  private evict(isDoomed: (entry: Entry) => boolean): void {
    const before = this.size;
    for (const [hash, entries] of this.known) {
      const kept = entries.filter((entry) => !isDoomed(entry));
      this.size += kept.length - entries.length;
      if (!kept.length) this.known.delete(hash);
      else if (kept.length < entries.length) this.known.set(hash, kept);
    }
    this.evicted += before - this.size;
    if (this.evicted < MAX_EVICTED) return;
    this.evicted = 0;
    collectGarbage();
  }
}

const partsOf = ({ bindings, buffers }: Launch): number[] =>
  bindings.flatMap(({ offset, size }, i) => [buffers[i]!.id, offset, size]);

function hashOf({ pipeline, bindings, buffers }: Launch): number {
  let hash = pipeline.id;
  for (let i = 0; i < bindings.length; i++) {
    const { offset, size } = bindings[i]!;
    hash = Math.imul(hash, 0x01000193) ^ buffers[i]!.id;
    hash = Math.imul(hash, 0x01000193) ^ offset;
    hash = Math.imul(hash, 0x01000193) ^ size;
  }
  return hash;
}

function isFor({ made, arenaName }: Entry, { pipeline, bindings, buffers }: Launch, arena: string): boolean {
  if (made[0] !== pipeline.id || arenaName !== arena) return false;
  for (let i = 0; i < bindings.length; i++) {
    const { offset, size } = bindings[i]!;
    const at = 3 * i + 1;
    if (made[at] !== buffers[i]!.id || made[at + 1] !== offset || made[at + 2] !== size) return false;
  }
  return true;
}
