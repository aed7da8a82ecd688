/** What Dawn prints by itself does not reach a user's terminal; what others print while it does is not lost. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { withoutDawnNotices } from "../../engine/native_log.ts";

const child = fileURLToPath(new URL("../native_log_child.ts", import.meta.url));

describe("opening a device", () => {
  it("prints nothing, on neither stream", () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ["--import", "tsx", child], { encoding: "utf8" });
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: "", stderr: "" });
  });
  it("passes on what else is written to stderr meanwhile", () => {
    const program = `import { writeSync } from "node:fs";
      const { stderrFilter } = await import(${JSON.stringify(new URL("../../engine/native_log.ts", import.meta.url).href)});
      const filtered = await stderrFilter();
      const notice = "Warning: maxDynamicUniformBuffersPerPipelineLayout artificially reduced from 1000000 to 16 to fit dynamic offset allocation limit.\\n";
      const result = filtered(() => (writeSync(2, "before\\n" + notice + "after\\n"), 7));
      writeSync(2, "result " + result + "\\n");
      try { filtered(() => { writeSync(2, "thrown\\n"); throw new Error("seen"); }); } catch (error) { writeSync(2, error.message + "\\n"); }`;
    const { stderr } = spawnSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", program], {
      encoding: "utf8",
    });
    expect(stderr).toBe("before\nafter\nresult 7\nthrown\nseen\n");
  });
});

it("only the known notices are dropped", () => {
  const notice =
    "Warning: maxDynamicStorageBuffersPerPipelineLayout artificially reduced from 500000 to 16 to fit dynamic offset allocation limit.";
  expect(withoutDawnNotices(`a\n${notice}\nWarning: another\n`)).toBe("a\nWarning: another\n");
  expect(withoutDawnNotices(notice)).toBe("");
});
