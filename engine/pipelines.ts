/** The compiled variants of kernels on one device: compilation, cache, and errors of the WGSL compiler. */
import type { Capabilities } from "./capabilities.ts";
import { KernelError } from "./errors.ts";
import { describeErrors, specialise, variantKey } from "./kernel.ts";
import type { Constants, Kernel, Uses } from "./kernel.ts";
import type { Pipeline } from "./types.ts";

/** Variants of a kernel that are remembered by their choices. */
const RECENT = 8;

interface Recent {
  /** Names and values of the uses, then of the constants, in their order. */
  readonly choices: readonly unknown[];
  readonly pipeline: Pipeline;
}

/** True if these are the choices, in the same order: then the keys are equal, too. */
function areChoices(choices: readonly unknown[], constants: Constants | undefined, uses: Uses | undefined): boolean {
  let at = 0;
  for (const name in uses) if (choices[at++] !== name || choices[at++] !== uses[name]) return false;
  for (const name in constants) if (choices[at++] !== name || choices[at++] !== constants[name]) return false;
  return at === choices.length;
}

export class Pipelines {
  private readonly gpu: GPUDevice | null;
  private readonly capabilities: Capabilities;
  private readonly fail: (error: KernelError) => void;
  private readonly known = new Map<string, Pipeline>();
  /** The variants of each kernel that were found last: they are found again without making their key. */
  private readonly recent = new Map<Kernel, Recent[]>();
  private readonly compiling = new Set<Promise<void>>();
  private count = 0;

  /** @param fail called with the error of each kernel that does not compile */
  constructor(gpu: GPUDevice | null, capabilities: Capabilities, fail: (error: KernelError) => void) {
    this.gpu = gpu;
    this.capabilities = capabilities;
    this.fail = fail;
  }

  /** Pipelines created since the device was created. */
  get created(): number {
    return this.count;
  }

  /** True while the compiler's verdict on some pipeline is not known. */
  get isPending(): boolean {
    return this.compiling.size > 0;
  }

  /** Resolves when the verdicts on all pipelines so far are known. */
  async settled(): Promise<void> {
    await Promise.all(this.compiling);
  }

  /** Returns the pipeline of a variant; undefined if it was not compiled. */
  find(kernel: Kernel, constants: Constants | undefined, uses: Uses | undefined): Pipeline | undefined {
    let recent = this.recent.get(kernel);
    if (!recent) this.recent.set(kernel, (recent = []));
    for (const { choices, pipeline } of recent) if (areChoices(choices, constants, uses)) return pipeline;
    const pipeline = this.known.get(variantKey(kernel, constants, uses));
    if (!pipeline) return undefined;
    if (recent.length === RECENT) recent.pop();
    recent.unshift({ choices: [...Object.entries(uses ?? {}), ...Object.entries(constants ?? {})].flat(), pipeline });
    return pipeline;
  }

  /** Compiles a variant. Errors in its WGSL are known later and go to `fail`. */
  compile(kernel: Kernel, constants: Constants = {}, uses: Uses = {}): Pipeline {
    const key = variantKey(kernel, constants, uses);
    const source = specialise(kernel, constants, uses);
    const bindings = Object.keys(kernel.bindings).length;
    const { maxStorageBuffersPerShaderStage: most } = this.capabilities.limits;
    if (bindings > most) {
      throw new KernelError(
        `kernel "${kernel.name}": must bind at most ${most} storage buffers, the device's limit; got ${bindings}. Use fewer bindings.`,
        source,
      );
    }
    const built = this.gpu ? this.build(this.gpu, kernel, key, source) : { gpu: null, layout: null };
    const pipeline: Pipeline = { id: this.count++, kernel, constants, uses, key, ...built };
    this.known.set(key, pipeline);
    return pipeline;
  }

  /**
   * Starts to build the variants that `recorded` has, in the background. A launch that needs one before it is ready builds its own, and
   * reports the errors of its WGSL. Resolves when none is being built any more.
   */
  async compileAhead(recorded: Pipelines): Promise<void> {
    const { gpu } = this;
    if (!gpu) return;
    const missing = [...recorded.known.values()].filter(({ key }) => !this.known.has(key));
    await Promise.all(missing.map((one) => this.buildAhead(gpu, one)));
  }

  private async buildAhead(gpu: GPUDevice, { kernel, constants, uses, key }: Pipeline): Promise<void> {
    gpu.pushErrorScope("validation");
    const { descriptor, layout } = describe(gpu, kernel, key, specialise(kernel, constants, uses));
    const building = gpu.createComputePipelineAsync(descriptor);
    gpu.popErrorScope().catch(() => undefined); // of a lost device
    const built = await building.catch(() => null);
    if (built && !this.known.has(key))
      this.known.set(key, { id: this.count++, kernel, constants, uses, key, gpu: built, layout });
  }

  private build(gpu: GPUDevice, kernel: Kernel, key: string, source: string): Pick<Pipeline, "gpu" | "layout"> {
    gpu.pushErrorScope("validation");
    const { descriptor, layout } = describe(gpu, kernel, key, source);
    const { module } = descriptor.compute;
    const compiled = gpu.createComputePipeline(descriptor);
    const verdict = gpu.popErrorScope().then(async (error) => {
      this.compiling.delete(verdict);
      if (!error) return;
      this.known.delete(key);
      const info = await module.getCompilationInfo();
      this.fail(new KernelError(describeErrors(kernel, key, source, info, error.message), source));
    });
    this.compiling.add(verdict);
    return { gpu: compiled, layout };
  }
}

function describe(
  gpu: GPUDevice,
  kernel: Kernel,
  key: string,
  code: string,
): { descriptor: GPUComputePipelineDescriptor; layout: GPUBindGroupLayout } {
  const layout = gpu.createBindGroupLayout({ entries: layoutEntries(kernel) });
  const descriptor = {
    label: key,
    layout: gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module: gpu.createShaderModule({ label: key, code }), entryPoint: kernel.name },
  };
  return { descriptor, layout };
}

/** Layout: the kernel's storage buffers, then its parameters. */
function layoutEntries(kernel: Kernel): GPUBindGroupLayoutEntry[] {
  const visibility = GPUShaderStage.COMPUTE;
  const entries: GPUBindGroupLayoutEntry[] = Object.values(kernel.bindings).map((access, binding) => ({
    binding,
    visibility,
    buffer: { type: access === "read" ? "read-only-storage" : "storage" },
  }));
  if (kernel.layout.bytes)
    entries.push({ binding: entries.length, visibility, buffer: { type: "uniform", hasDynamicOffset: true } });
  return entries;
}
