/** Models that come with the package. */
import { fileURLToPath } from "node:url";

/** The folder of a model that comes with the package: `shapes`, which the demo's full recipe left. Undefined for other names. */
export const shippedModel = (name: string): string | undefined =>
  name === "shapes" ? fileURLToPath(new URL("../../../examples/shapes/checkpoint", import.meta.url)) : undefined;
