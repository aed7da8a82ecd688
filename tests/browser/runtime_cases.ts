/**
 * Runs the sample of the table of cases in another runtime, and prints one JSON object:
 * `deno run -A --no-check --unstable-webgpu --unstable-sloppy-imports tests/browser/runtime_cases.ts [rows] [seed] [part] [parts]`,
 * `bun tests/browser/runtime_cases.ts [the same]`. A part of four takes about a minute.
 */
import { jobs } from "./page/jobs.ts";

const [rows = "420", seed = "1", part = "0", parts = "1"] = process.argv.slice(2);
const about = await jobs.adapter();
const report = await jobs.ops({ seed: Number(seed), count: Number(rows), part: Number(part), parts: Number(parts) });
console.log(JSON.stringify({ adapter: about, ...report }, null, 1));
process.exit(report.failures.length ? 1 : 0);
