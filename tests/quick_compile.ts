/**
 * Import this first in a test file that compiles many kernels and runs each for a moment: software Vulkan then compiles without LLVM's
 * optimisation passes, which takes a third less time. The long form of the suite compiles as users' programs do.
 */
import { isLong } from "./long.ts";

// Mesa reads it when the driver is loaded; other drivers do not know it.
if (!isLong) process.env["GALLIVM_PERF"] ??= "nopt";
