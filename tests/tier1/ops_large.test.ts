/** Rows of the families whose kernels take long to compile. The others are in ops_small.test.ts: two processes share the table. */
import { testOps } from "../ops_suite.ts";

await testOps(["attention", "decode", "image", "matmul"]);
