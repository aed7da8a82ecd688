// Licences of everything that an installation of the package brings, from package-lock.json. Plain Node: `node scripts/release/licences.mjs`
// prints the list and ends with 1 if there is one that is not known to be fit.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { root } from "../setup.mjs";

/** Licences that ask for no more than their text and a notice. */
const PERMISSIVE = ["MIT", "ISC", "0BSD", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "BlueOak-1.0.0", "Unlicense", "CC0-1.0", "Python-2.0"]; // prettier-ignore

/** Packages with another licence, and why they may stay. */
const EXCEPTIONS = [
  {
    packages: /^@img\/sharp-(libvips-|win32-|wasm32)/,
    licences: ["LGPL-3.0-or-later", "Apache-2.0 AND LGPL-3.0-or-later", "Apache-2.0 AND LGPL-3.0-or-later AND MIT"],
    reason:
      "the shared library libvips, an optional download of sharp that npm installs beside it, not a part of this package",
  },
];

/**
 * Packages that users get, by licence.
 * @returns {{ name: string, version: string, licence: string, reason: string | null, isFit: boolean }[]}
 */
export function licences(lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"))) {
  const found = new Map();
  for (const [path, entry] of Object.entries(lock.packages)) {
    if (path === "" || entry.dev || entry.link) continue;
    const name = path.replace(/^.*node_modules\//, "");
    const licence = typeof entry.license === "string" ? entry.license : "none stated";
    const exception = EXCEPTIONS.find(({ packages, licences: list }) => packages.test(name) && list.includes(licence));
    const isFit = PERMISSIVE.includes(licence) || exception !== undefined;
    const row = { name, version: entry.version, licence, reason: exception?.reason ?? null, isFit };
    found.set(`${name}@${entry.version}`, row);
  }
  return [...found.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const all = licences();
  for (const { name, version, licence } of all) console.log(`${licence.padEnd(20)} ${name}@${version}`);
  const unfit = all.filter(({ isFit }) => !isFit);
  for (const { name, licence } of unfit) console.error(`licence not known to be fit: ${name}: ${licence}`);
  console.log(`licences: ${all.length} packages, ${unfit.length} not fit`);
  process.exitCode = unfit.length > 0 ? 1 : 0;
}
