/**
 * `npm run docs`: builds the site into .cache/docs/site. Copies docs/, draws its pictures, writes the reference from the code, builds with
 * VitePress, checks every link and anchor of the result, and writes `llms.txt` beside it.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join, normalize, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { pages } from "./blocks.mjs";
import { drawPictures } from "./pictures.ts";
import { cliPage } from "./reference/cli.ts";
import { errorsPage } from "./reference/errors.ts";
import { formatsPage } from "./reference/formats.ts";
import { kernelsPage } from "./reference/kernels.ts";
import { licencesPage } from "./reference/licences.ts";
import { resultsPage } from "./reference/results.ts";
import { settingsPage } from "./reference/settings.ts";
import { siteProblems } from "./site_links.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const WORK = join(ROOT, ".cache", "docs");
const SOURCE = join(WORK, "src");
export const SITE = join(WORK, "site");

/** Entries of the package. What several export is described at the first: the whole package comes last. */
const ENTRIES = [
  "engine/index.ts",
  "kernels/index.ts",
  "model/nn/index.ts",
  "model/index.ts",
  "train/node/index.ts",
  "index.node.ts",
];

function copyPages(): void {
  rmSync(SOURCE, { recursive: true, force: true });
  cpSync(join(ROOT, "docs"), SOURCE, { recursive: true });
  writeFileSync(join(SOURCE, "changelog.md"), changelogPage());
  for (const path of markdownIn(SOURCE)) {
    const text = readFileSync(join(SOURCE, path), "utf8");
    // The site has no files of the repository beside docs/: their names remain, the links do not.
    const kept = text.replace(/\[([^\]]*)\]\(((?:\.\.\/)+[^)#]+)\)/g, (link, name: string, target: string) =>
      normalize(join(dirname(path), target)).startsWith("..") ? name : link,
    );
    // VitePress shows the name of a block only in groups of blocks.
    const named = kept.replace(/^( *)(`{3,}\w+) \[(.+)\]$/gm, "$1File `$3`:\n\n$1$2");
    if (named !== text) writeFileSync(join(SOURCE, path), named);
  }
}

/** CHANGELOG.md, with the changes that are part of no version yet before the first of its versions. */
function changelogPage(): string {
  const folder = join(ROOT, ".changeset");
  const unreleased = readdirSync(folder)
    .filter((name) => name.endsWith(".md") && name !== "README.md")
    .toSorted()
    .map((name) => readFileSync(join(folder, name), "utf8").replace(/^---\n[^]*?\n---\n/, "").trim()); // prettier-ignore
  const [, versions] = readFileSync(join(ROOT, "CHANGELOG.md"), "utf8").split(/^(?=# )[^\n]*\n/m);
  const section = unreleased.length > 0 ? `## Unreleased\n\n${unreleased.join("\n\n")}\n` : "";
  return `# Changes\n\n${section}${versions}`;
}

const markdownIn = (folder: string): string[] =>
  readdirSync(folder, { recursive: true }).map(String).filter((path) => path.endsWith(".md")).toSorted(); // prettier-ignore

async function writeReference(): Promise<void> {
  const folder = join(SOURCE, "reference");
  mkdirSync(folder, { recursive: true });
  const reference: Readonly<Record<string, string>> = {
    cli: cliPage(),
    settings: settingsPage(),
    errors: await errorsPage(),
    kernels: kernelsPage(),
    formats: formatsPage(),
    results: resultsPage(),
    licences: licencesPage(),
  };
  for (const [name, text] of Object.entries(reference)) writeFileSync(join(folder, `${name}.md`), text);
  await writeApi(join(folder, "api"));
}

/** Options of typedoc-plugin-markdown. */
const MARKDOWN = {
  outputFileStrategy: "modules",
  entryFileName: "index.md",
  hideBreadcrumbs: true,
  hidePageHeader: true,
  sanitizeComments: true,
  useHTMLAnchors: true, // headings of one name are counted in another way by VitePress
  parametersFormat: "table",
  propertiesFormat: "table",
  tableColumnSettings: { hideModifiers: true, hideInherited: true, hideOverrides: true },
  groupOrder: ["Functions", "Classes", "*"], // what one calls comes before the types of its options
};

/** The API from the sources and their comments: a page for each entry of the package. */
async function writeApi(out: string): Promise<void> {
  const { Application } = await import("typedoc");
  const app = await Application.bootstrapWithPlugins({
    name: "API",
    entryPoints: ENTRIES.map((path) => join(ROOT, path)),
    tsconfig: join(ROOT, "tsconfig.json"),
    plugin: ["typedoc-plugin-markdown"],
    out, // its default is docs/, which it would empty
    outputs: [{ name: "markdown", path: out }],
    readme: "none",
    excludePrivate: true,
    excludeInternal: true,
    disableSources: true,
    skipErrorChecking: true, // `npm test` has checked the types
    logLevel: "Error",
    validation: false,
    ...MARKDOWN,
  });
  const project = await app.convert();
  if (!project) throw new Error("typedoc: the sources could not be read");
  await app.generateOutputs(project);
}

/** \`llms.txt\`: every page with its first sentence, as https://llmstxt.org describes; the pages themselves are beside it as Markdown. */
function writeLlms(): void {
  const lineOf = (path: string): string => {
    const text = readFileSync(join(SOURCE, path), "utf8").replace(/^---\n[^]*?\n---\n/, "");
    const title = /^# (.+)$/m.exec(text)?.[1] ?? path;
    const first =
      text
        .split("\n\n")
        .find((part) => /^(?!```)[A-Z`*]/.test(part))
        ?.replace(/\s+/g, " ")
        .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
        .slice(0, 200) ?? "";
    return `- [${title}](${path}): ${first}`;
  };
  const paths = markdownIn(SOURCE).map((path) => path.split(sep).join("/"));
  for (const path of paths) cpSync(join(SOURCE, path), join(SITE, path));
  const isOptional = (path: string): boolean => /^(decisions|log)\/|^changelog/.test(path);
  const isReference = (path: string): boolean => path.startsWith("reference/");
  const sections = {
    Pages: paths.filter((path) => !isOptional(path) && !isReference(path)),
    Reference: paths.filter(isReference),
    Optional: paths.filter(isOptional), // how it came about
  };
  const lists = Object.entries(sections).map(([name, of]) => `## ${name}\n\n${of.map(lineOf).join("\n")}\n`);
  const head = readFileSync(join(SOURCE, "index.md"), "utf8").split("\n\n")[1]!.replace(/\s+/g, " ");
  writeFileSync(join(SITE, "llms.txt"), `# janus-webgpu\n\n> ${head}\n\n${lists.join("\n")}`);
}

/** Runs VitePress in a process of its own: it registers loaders and changes the folder. */
function buildSite(): void {
  const cli = join(ROOT, "node_modules", "vitepress", "bin", "vitepress.js");
  const { status } = spawnSync(process.execPath, [cli, "build", SOURCE], { stdio: ["ignore", "inherit", "inherit"] });
  if (status !== 0) throw new Error(`vitepress ended with ${status}`);
}

/** Serves the site at a free port until Ctrl-C. */
function preview(): void {
  const types: Readonly<Record<string, string>> = { html: "text/html", js: "text/javascript", css: "text/css", png: "image/png", svg: "image/svg+xml" }; // prettier-ignore
  const server = createServer((request, response) => {
    const path = join(SITE, decodeURI(request.url!.split(/[?#]/)[0]!));
    const file = relative(SITE, path).startsWith("..") ? SITE : path.endsWith(sep) || path === SITE ? join(path, "index.html") : path; // prettier-ignore
    try {
      const body = readFileSync(file);
      response.writeHead(200, { "content-type": types[file.split(".").at(-1)!] ?? "text/plain" }).end(body);
    } catch {
      response.writeHead(404).end("not found");
    }
  });
  server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${(server.address() as { port: number }).port}/`));
}

const started = performance.now();
if (process.argv.includes("--preview")) preview();
else {
  copyPages();
  if (!process.argv.includes("--no-pictures")) await drawPictures(join(SOURCE, "pictures"));
  await writeReference();
  buildSite();
  writeLlms();
  const { links, problems } = siteProblems(SITE);
  for (const problem of problems) console.error(problem);
  console.log(`docs: ${markdownIn(SOURCE).length} pages (${pages().length} written), ${links} links and anchors checked, ${problems.length} broken, ${((performance.now() - started) / 1000).toFixed(0)} s: ${SITE}/index.html`); // prettier-ignore
  process.exit(problems.length > 0 ? 1 : 0); // the device of the pictures would keep the process
}
