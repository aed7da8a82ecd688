// `npm run build`: rebuilds dist/ with tsc, copies every .wgsl file beside the module that loads it, builds the page into
// dist/app/, and adds the demo's model.

import { spawnSync } from "node:child_process";
import { cpSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ensureSetup, root, tool } from "./setup.mjs";

ensureSetup({ adapter: false });
rmSync(join(root, "dist"), { recursive: true, force: true });
const tsc = tool("typescript-7", "tsc");
const { status } = spawnSync(process.execPath, [tsc, "-p", "tsconfig.build.json"], { cwd: root, stdio: "inherit" });
if (status !== 0) process.exit(status ?? 1);

// TypeScript does not change the addresses of Workers.
for (const path of readdirSync(join(root, "dist"), { recursive: true })) {
  if (!path.endsWith(".js")) continue;
  const file = join(root, "dist", path);
  const code = readFileSync(file, "utf8");
  const mended = code.replace(/\bnew Worker\(new URL\("(\.\/[^"]+)\.ts"/g, 'new Worker(new URL("$1.js"');
  if (mended !== code) writeFileSync(file, mended);
}

for (const folder of ["engine", "kernels", "model", "train", "eval", "bench"]) {
  for (const path of readdirSync(join(root, folder), { recursive: true })) {
    if (/\.(wgsl|yaml)$/.test(path)) cpSync(join(root, folder, path), join(root, "dist", folder, path));
  }
}
// The page, as static files that `janus serve` and any server of files can give.
const page = spawnSync(process.execPath, [tool("vite"), "build", "-c", "app/vite.config.ts"], {
  cwd: root,
  stdio: "inherit",
});
if (page.status !== 0) process.exit(page.status ?? 1);
const shapes = join("examples", "shapes", "checkpoint");
cpSync(join(root, shapes), join(root, "dist", shapes), { recursive: true });
