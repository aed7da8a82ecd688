// `node scripts/run.mjs FILE.ts [arguments]`: set-up, then the TypeScript program. Behind `npm run demo` and `bench`.

import { spawnSync } from "node:child_process";
import { ensureSetup, root, tool } from "./setup.mjs";

try {
  ensureSetup();
  const { status } = spawnSync(process.execPath, [tool("tsx"), ...process.argv.slice(2)], {
    cwd: root,
    stdio: "inherit",
  });
  process.exitCode = status ?? 1;
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
