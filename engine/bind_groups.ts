/** The cache of bind groups: a steady loop reuses those of its first steps. */
import { collectGarbage } from "./platform.ts";
import type { Launch } from "./types.ts";

const MAX_BIND_GROUPS = 16384;
/**
 * Force a garbage collection after this many evicted bind groups. On lavapipe each is a memory mapping, and Linux
 * allows a process 65,530.
 */
const MAX_EVICTED = 4096;

export class BindGroups {
  private readonly gpu: GPUDevice;
  private readonly known = new Map<string, GPUBindGroup>();
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
    let key = `${arenaName}${launch.pipeline.id}`;
    for (const [i, b] of launch.bindings.entries()) key += `,${launch.buffers[i]!.id}.${b.offset}.${b.size}`;
    const known = this.known.get(key);
    if (known) return known;
    const group = this.create(launch, arena);
    // Programs whose sizes keep changing would grow the cache without bound: evict the oldest quarter.
    if (this.known.size >= MAX_BIND_GROUPS) this.evict([...this.known.keys()].slice(0, MAX_BIND_GROUPS / 4));
    this.known.set(key, group);
    return group;
  }

  /** Evicts the bind groups made for the arenas whose names begin with `arenaName` (those of a capture that ended). */
  drop(arenaName: string): void {
    this.evict([...this.known.keys()].filter((key) => key.startsWith(arenaName)));
  }

  clear(): void {
    this.known.clear();
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

  private evict(keys: readonly string[]): void {
    for (const key of keys) this.known.delete(key);
    this.evicted += keys.length;
    if (this.evicted < MAX_EVICTED) return;
    this.evicted = 0;
    collectGarbage();
  }
}
