/** Rows of all other families. */
import { testOps } from "../ops_suite.ts";

await testOps([
  "activations",
  "elementwise",
  "index",
  "loss",
  "matrices",
  "quantized",
  "rows",
  "sampling",
  "sorting",
  "statistics",
  "views",
]);
