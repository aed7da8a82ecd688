/** Rows of all other families. */
import { testOps } from "../ops_suite.ts";

await testOps([
  "activations",
  "elementwise",
  "index",
  "loss",
  "matrices",
  "rows",
  "sampling",
  "sorting",
  "statistics",
  "views",
]);
