import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Version of a package that is installed beside this file. */
export const versionOf = (name) =>
  JSON.parse(readFileSync(fileURLToPath(new URL(`node_modules/${name}/package.json`, import.meta.url)), "utf8"))
    .version;
