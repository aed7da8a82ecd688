// What an import of each entry of the package loads: folders of the package, and packages. Heavy ones load where they are used.

import { spawnSync } from "node:child_process";

const MODEL_PACKAGES = ["@huggingface/jinja", "@huggingface/tokenizers"];
const SETTINGS_PACKAGES = ["zod", "yaml", "@noble/hashes"];

/** Everything that may be loaded, by entry. */
export const MAY_LOAD = {
  "janus-webgpu/engine": { folders: ["engine"], packages: [] },
  "janus-webgpu/kernels": { folders: ["engine", "kernels"], packages: [] },
  "janus-webgpu/nn": { folders: ["engine", "kernels", "model/nn", "model/io"], packages: [] },
  "janus-webgpu/model": { folders: ["engine", "kernels", "model"], packages: MODEL_PACKAGES },
  "janus-webgpu/checkpoint": { folders: ["engine", "kernels", "model"], packages: MODEL_PACKAGES },
  "janus-webgpu/node": { folders: ["engine", "kernels", "model"], packages: MODEL_PACKAGES },
  // The browser's store of models checks their hashes.
  "janus-webgpu": { folders: ["engine", "kernels", "model"], packages: [...MODEL_PACKAGES, "@noble/hashes"] },
  "janus-webgpu/train": {
    folders: ["engine", "kernels", "model", "train"],
    packages: [...MODEL_PACKAGES, ...SETTINGS_PACKAGES],
  },
};

const hooks = `export async function load(url, context, next) {
  if (!url.startsWith("node:")) process._rawDebug("LOADED " + url);
  return next(url, context);
}`;

const program = `import { register } from "node:module";
register("data:text/javascript," + encodeURIComponent(${JSON.stringify(hooks)}));
await import(process.argv[1]);
process.exit(0);`;

/**
 * What is loaded that may not be, one line each.
 * @param {string} home folder of a project that has the package
 */
export function loadProblems(home) {
  return Object.entries(MAY_LOAD).flatMap(([entry, { folders, packages }]) => {
    const args = ["--input-type=module", "-e", program, entry];
    const { status, stderr } = spawnSync(process.execPath, args, { cwd: home, encoding: "utf8" });
    if (status !== 0) return [`${entry}: cannot be imported\n${stderr}`];
    const urls = [...stderr.matchAll(/^LOADED (.*)$/gm)].map(([, url]) => url);
    if (urls.length === 0) return [`${entry}: nothing was loaded`];
    const tooMuch = urls.flatMap((url) => {
      const own = /\/janus-webgpu\/dist\/(.*)$/.exec(url);
      const name = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url)?.[1];
      if (own)
        return !own[1].includes("/") || folders.some((folder) => own[1].startsWith(`${folder}/`)) ? [] : [own[1]];
      return name === undefined || packages.includes(name) ? [] : [name];
    });
    return [...new Set(tooMuch)].map((what) => `${entry}: an import loads ${what}; import it where it is used`);
  });
}
