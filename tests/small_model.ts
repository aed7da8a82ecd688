/** A model for tests of whole runs, for which it does not matter what it learns: 32 × 32 pictures of 16 tokens, two thin layers. */
import type { ConfigChanges } from "../model/janus/create.ts";

export const SMALL: ConfigChanges = {
  vision: { imageSize: 32, hidden: 32, layers: 1, heads: 2, intermediate: 64 },
  vq: { resBlocks: 1, codes: 64 },
  language: { hidden: 64, intermediate: 128, layers: 2, heads: 2, kvHeads: 2 },
};
