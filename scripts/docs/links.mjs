// Links between README.md, CONTRIBUTING.md and the pages of docs/: the file must exist, and the anchor be a heading there.

import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, normalize, sep } from "node:path";
import { root } from "../setup.mjs";

/** Folders of pages that the build of the site writes: the links to them are checked there. */
const GENERATED = /^docs\/reference\//;

const withoutCode = (text) => text.replace(/^( *)(`{3,})[^]*?^\1\2$/gm, "").replace(/`[^`\n]*`/g, "");

/** The anchor of a heading, as VitePress and GitHub make it. */
export const anchorOf = (heading) =>
  heading
    .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/[`*_]/g, (mark) => (mark === "_" ? "_" : ""))
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .replace(/\s/g, "-");

const headings = (path) =>
  readFileSync(path, "utf8")
    .replace(/^( *)(`{3,})[^]*?^\1\2$/gm, "")
    .split("\n")
    .filter((line) => /^#+ /.test(line))
    .map((line) => anchorOf(line.replace(/^#+ /, "")));

/** What is wrong with the links, one line each. */
export function brokenLinks() {
  const inDocs = readdirSync(join(root, "docs"), { recursive: true }).map((path) => join("docs", path).split(sep).join("/")); // prettier-ignore
  const files = ["README.md", "CONTRIBUTING.md", "SECURITY.md", ...inDocs].filter((path) => path.endsWith(".md"));
  return files.flatMap((file) => {
    const links = [...withoutCode(readFileSync(join(root, file), "utf8")).matchAll(/\]\(([^)\s]+)\)/g)];
    return links.flatMap(([, target]) => problemOf(file, target) ?? []);
  });
}

function problemOf(file, target) {
  if (/^[a-z]+:/.test(target)) return null;
  const [path, anchor] = target.split("#");
  const to =
    path === ""
      ? file
      : normalize(join(dirname(file), path))
          .split(sep)
          .join("/");
  if (GENERATED.test(to)) return null;
  if (!existsSync(join(root, to))) return `${file}: the link ${target} leads to no file`;
  if (anchor && to.endsWith(".md") && !headings(join(root, to)).includes(anchor))
    return `${file}: the link ${target} leads to no heading`;
  return null;
}
