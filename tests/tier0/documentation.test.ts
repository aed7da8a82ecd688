/** The documentation without a GPU: blocks and what they say about running, links, generated pages, licences. `npm run test:docs` runs the blocks. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { sep } from "node:path";
import { describe, expect, it } from "vitest";
import { JanusError } from "../../engine/errors.ts";
import { RUNNABLE, SHOWN, blocksOf, modules, pages } from "../../scripts/docs/blocks.mjs";
import { anchorOf, brokenLinks } from "../../scripts/docs/links.mjs";
import { cliPage } from "../../scripts/docs/reference/cli.ts";
import { errorClasses } from "../../scripts/docs/reference/errors.ts";
import { formatsPage } from "../../scripts/docs/reference/formats.ts";
import { kernelsPage } from "../../scripts/docs/reference/kernels.ts";
import { resultsPage } from "../../scripts/docs/reference/results.ts";
import { settingsPage } from "../../scripts/docs/reference/settings.ts";
import { licences } from "../../scripts/release/licences.mjs";
import { cases } from "../cases.ts";

const MAX_README_LINES = 120;
const MAX_DECISION_LINES = 60;
const PROGRAMS_BESIDE_PYTORCH = 10;

describe("blocks", () => {
  const fence = "```";
  it("carry the reason why they do not run, their file and their output", () => {
    const page = `${fence}sh\njanus tune\n${fence}\n\n_Not run by the tests: takes\ntwo minutes, see [tune](how_to/tune.md)._\n\n${fence}json [a/b.json]\n{}\n${fence}\n\n${fence}ts\nx\n${fence}\n\n${fence}text\n1 …\n${fence}\n`;
    expect(blocksOf("page.md", page)).toMatchObject([
      { language: "sh", code: "janus tune", skip: "takes two minutes, see [tune](how_to/tune.md).", line: 1 },
      { language: "json", file: "a/b.json", skip: null },
      { language: "ts", output: "1 …" },
      { language: "text", output: null },
    ]);
    expect(() => blocksOf("page.md", `${fence}sh\nls`)).toThrow("page.md:1: the code block has no end");
  });

  it("of TypeScript are modules, which the check of the package compiles, or say why not", () => {
    const fragments = pages()
      .flatMap((page) => blocksOf(page))
      .filter(({ language, code, skip }) => language === "ts" && !/^import /m.test(code) && !skip);
    expect(fragments.map(({ page, line }) => `${page}:${line}`)).toEqual([]);
    expect(modules().length).toBeGreaterThan(20);
  });

  it("have one name for each language", () => {
    const others = pages()
      .flatMap((page) => blocksOf(page))
      .filter(({ language }) => ![...RUNNABLE, ...SHOWN].includes(language));
    expect(others.map(({ page, line, language }) => `${page}:${line} ${language}`)).toEqual([]);
  });

  it("beside PyTorch are pairs that all run and are compared", () => {
    const blocks = blocksOf("docs/pytorch.md").filter(({ language }) => language !== "text");
    expect(blocks.map(({ language }) => language)).toEqual(
      Array(PROGRAMS_BESIDE_PYTORCH).fill(["python", "ts"]).flat(),
    );
    for (const block of blocks)
      if (RUNNABLE.includes(block.language)) expect([block.skip, block.long, typeof block.output]).toEqual([null, null, "string"]); // prettier-ignore
  });
});

describe("pages", () => {
  it("link to files and headings that are there", () => {
    expect(anchorOf("What is `janus data`, and why?")).toBe("what-is-janus-data-and-why");
    expect(brokenLinks()).toEqual([]);
  });

  it("are all in the sidebar", () => {
    const config = readFileSync("docs/.vitepress/config.mts", "utf8");
    const listed = pages().filter((page) => page.startsWith("docs/") && page !== "docs/index.md");
    expect(listed.filter((page) => !config.includes(`"${page.slice("docs/".length, -".md".length)}"`))).toEqual([]);
  });

  it("begin with a README that one can read", () => {
    expect(readFileSync("README.md", "utf8").trimEnd().split("\n").length).toBeLessThanOrEqual(MAX_README_LINES);
  });
});

describe("decisions", () => {
  const folder = "docs/decisions";
  const decisions = readdirSync(folder, { recursive: true })
    .map((path) => String(path).split(sep).join("/"))
    .filter((path) => path.endsWith(".md") && path !== "README.md");

  it("are short, and say the context, the options and the decision", () => {
    for (const path of decisions) {
      const lines = readFileSync(`${folder}/${path}`, "utf8").trimEnd().split("\n");
      expect(lines.length, path).toBeLessThanOrEqual(MAX_DECISION_LINES);
      const headings = lines.filter((line) => line.startsWith("## "));
      expect(headings, path).toEqual(["## Context", "## Options", "## Decision"]);
    }
  });

  it("are all in the overview, by their titles", () => {
    const overview = readFileSync(`${folder}/README.md`, "utf8");
    const titleOf = (path: string): string => readFileSync(`${folder}/${path}`, "utf8").split("\n")[0]!.slice(2);
    expect(decisions.filter((path) => !overview.includes(`- [${titleOf(path)}](${path})`))).toEqual([]);
    expect(decisions.length).toBeGreaterThan(70);
  });
});

it("programs in a checkout find the source of every entry of the package", async () => {
  const { exports } = JSON.parse(readFileSync("package.json", "utf8")) as { exports: Record<string, Record<string, unknown>> }; // prettier-ignore
  const { default: ts } = await import("typescript");
  const { config } = ts.readConfigFile("tsconfig.json", (file) => readFileSync(file, "utf8")) as { config: { compilerOptions: { paths: Record<string, string[]> } } }; // prettier-ignore
  const entries = Object.entries(exports).filter(([name]) => name !== "./package.json");
  const sources = entries.map(([name, of]) => {
    const { default: built } = (of.node ?? of) as { default: string };
    return [`janus-webgpu${name.slice(1)}`, [built.replace("./dist/", "./").replace(/js$/, "ts")]];
  });
  expect(config.compilerOptions.paths).toEqual(Object.fromEntries(sources));
  for (const [file] of Object.values(config.compilerOptions.paths)) expect(existsSync(file!), file).toBe(true);
});

it("every function and class of the API says what it is", async () => {
  const entries = [
    await import("../../engine/index.ts"),
    await import("../../kernels/index.ts"),
    await import("../../model/nn/index.ts"),
    await import("../../model/index.ts"),
    await import("../../train/node/index.ts"),
    await import("../../index.node.ts"),
  ];
  const sources = ["engine", "kernels", "model", "train"].flatMap((folder) =>
    readdirSync(folder, { recursive: true })
      .map((path) => `${folder}/${String(path)}`)
      .filter((path) => path.endsWith(".ts"))
      .map((path) => readFileSync(path, "utf8")),
  );
  const described = new Set<string>();
  const declared = /(\*\/\n)?^export (?:declare |abstract |async )*(?:function\*?|class|const) (\w+)/gm;
  for (const source of sources)
    for (const [, comment, name] of source.matchAll(declared)) if (comment) described.add(name!);
  for (const source of sources)
    for (const [, name, alias] of source.matchAll(/\b(\w+) as (\w+)\b/g))
      if (described.has(name!)) described.add(alias!);
  const functions = entries.flatMap((entry) =>
    Object.entries(entry).filter(([, value]) => typeof value === "function"),
  );
  const names = [...new Set(functions.map(([name]) => name))];
  expect(names.filter((name) => !described.has(name))).toEqual([]);
  expect(names.length).toBeGreaterThan(300);
});

describe("generated pages", () => {
  it("have every command with its options", () => {
    const page = cliPage();
    for (const name of ["generate", "data preview", "ckpt export", "bench kernels", "doctor", "eval compare"])
      expect(page).toMatch(new RegExp(`^#+ janus ${name}$`, "m"));
    expect(page).toContain("| `--quantize &lt;kind&gt;`".replace("&lt;kind&gt;", "<kind>"));
    expect(page).toContain("wrong usage");
  });

  it("have every setting with its range, default and meaning, also of shared parts", () => {
    const page = settingsPage();
    expect(page).toMatch(/\| `optimizer\.beta2` \|.*\| number, above 0, below 1 \| `0\.95` \|/);
    expect(page).toContain(
      "| `bad.share` | Most bad samples, as a share of all samples seen. | number, at least 0, at most 1 | `0.001` |",
    );
    expect(page).toContain("| `lora.rank` |");
    expect(page.match(/^\| `[^`]+` \|  \|.*/gm)).toBeNull(); // none without a meaning
    expect(page).toMatch(/`lora\.rslora`.*`false`/);
    expect(page).toMatch(/`reseed\.every`.*`200`/);
  });

  it("have every error with an exit code", async () => {
    const classes = await errorClasses();
    const exitOf = Object.fromEntries(classes.map(({ name, exitCode }) => [name, exitCode]));
    expect(exitOf).toMatchObject({ ShapeError: 70, ArgumentError: 2, SaveError: 1, IoError: 3, HubError: 4, DeviceError: 5, NotFiniteError: 6 }); // prettier-ignore
    expect(classes.length).toBeGreaterThan(40);
    for (const { name, meaning } of classes) expect(meaning.trim(), name).not.toBe("");
    expect(new JanusError("x").name).toBe("JanusError");
  });

  it("have every op of the table of cases, the formats and the results", () => {
    const page = kernelsPage();
    for (const op of new Set(cases.map((c) => c.op))) expect(page).toContain(`| \`${op}\` |`);
    expect(formatsPage()).toContain("| `Q4_0` |");
    expect(resultsPage()).toContain("navi21");
  });
});

it("all dependencies have licences that are known to be fit", () => {
  const all = licences();
  expect(all.length).toBeGreaterThan(50);
  expect(all.filter(({ isFit }) => !isFit)).toEqual([]);
  const packages = { "node_modules/x": { version: "1.0.0", license: "SSPL-1.0" }, "node_modules/y": { version: "1.0.0", dev: true } }; // prettier-ignore
  expect(licences({ packages }).map(({ name, isFit }) => [name, isFit])).toEqual([["x", false]]);
});
