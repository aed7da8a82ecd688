/**
 * Import this first in a test file that compiles many kernels and runs each for a moment: software Vulkan then compiles without LLVM's
 * optimisation passes, and kernels with workgroup memory, which are meant for GPUs, keep their loops, which Mesa would write out. The long form
 * of the suite compiles as users' programs do.
 */
import { Device } from "../index.ts";
import { isLong } from "./long.ts";

if (!isLong) {
  // Mesa reads it when the driver is loaded; other drivers do not know it.
  process.env["GALLIVM_PERF"] ??= "nopt";
  const create = Device.create.bind(Device);
  Device.create = async (options) => {
    const device = await create(options);
    if (device.gpu && device.capabilities.software) keepLoops(device.gpu);
    return device;
  };
}

function keepLoops(gpu: GPUDevice): void {
  const create = gpu.createShaderModule.bind(gpu);
  const value: typeof create = (descriptor) => create({ ...descriptor, code: withLoops(descriptor.code) });
  Object.defineProperty(gpu, "createShaderModule", { value });
}

/**
 * `code` of a kernel with workgroup memory, with bounds of loops that compilers do not know: to a constant the top bit of a size in the parameters
 * is added, which is 0. Lines stay where they are.
 */
function withLoops(code: string): string {
  const [, params, type] = /var<uniform> (\w+): (\w+);/.exec(code) ?? [];
  const [, members] = new RegExp(`struct ${type} \\{([^}]*)\\}`).exec(code) ?? [];
  const [, size, vector] = /(\w+): (vec4)?u(?:32)?,/.exec(members?.replaceAll(/\/\/.*$/gm, "") ?? "") ?? [];
  if (!size || !code.includes("var<workgroup>")) return code;
  const zero = `(${params}.${size}${vector ? ".x" : ""} >> 31u)`;
  const constant = /(?:[A-Z][A-Z0-9_]*(?:_\w+)?|\d+u)/.source;
  const loop = new RegExp(`(for \\(var \\w+ = [^;]+; \\w+ < )(${constant}(?: [*/] ${constant})*);`, "g");
  return code.replaceAll(loop, `$1($2) + ${zero};`);
}
