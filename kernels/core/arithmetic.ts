/** The plain arithmetic that ops compose by `map`; what users call is in `pointwise/`. */
import { expression } from "./map.ts";

/** a + b. A NaN keeps its bits, as PyTorch's does. */
export const add = expression("add.forward", "select(select(a + b, b, is_nan_b(b)), a, is_nan_a(a))");
/** a + b for partial sums. */
export const sumPair = expression("sum_pair", "a + b");
export const product = expression("multiply", "a * b");
/** a · s.x */
export const scaled = expression("scale", "a * s.x");
