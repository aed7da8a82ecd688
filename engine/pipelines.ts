/** The compiled variants of kernels on one device: compilation, cache, and errors of the WGSL compiler. */
import type { Capabilities } from "./capabilities.ts";
import { KernelError } from "./errors.ts";
import { describeErrors, specialise, variantKey } from "./kernel.ts";
import type { Constants, Kernel, Uses } from "./kernel.ts";
import type { Pipeline } from "./types.ts";

export class Pipelines {
  private readonly gpu: GPUDevice | null;
  private readonly capabilities: Capabilities;
  private readonly fail: (error: KernelError) => void;
  private readonly known = new Map<string, Pipeline>();
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
    return this.known.get(variantKey(kernel, constants, uses));
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

  private build(gpu: GPUDevice, kernel: Kernel, key: string, source: string): Pick<Pipeline, "gpu" | "layout"> {
    gpu.pushErrorScope("validation");
    const module = gpu.createShaderModule({ label: key, code: source });
    const layout = gpu.createBindGroupLayout({ entries: layoutEntries(kernel) });
    const compiled = gpu.createComputePipeline({
      label: key,
      layout: gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: kernel.name },
    });
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
