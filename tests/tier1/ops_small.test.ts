/** Rows of all other families. */
import { testOps } from "../ops_suite.ts";

await testOps([
  "activations",
  "elementwise",
  "index",
  "loss",
  "matrices",
  "normLinear",
  "quantized",
  "rows",
  "sampling",
  "sorting",
  "statistics",
  "views",
]);
