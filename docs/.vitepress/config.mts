// The site: `npm run docs` copies docs/ to .cache/docs/src, adds the generated pages, and builds from there.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "vitepress";

const SOURCE = join(import.meta.dirname, "..");

/** Two red squares, as on the front page. */
const ICON =
  "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32'/%3E%3Cpath fill='%23e02020' d='M12 5h10v10H12zM18 18h9v9h-9z'/%3E%3C/svg%3E";

type Item = { text: string; link: string };
type Group = { text: string; collapsed?: boolean; items: (Item | Group)[] };

/** Pages that are there: a page may come with a later release. */
const items = (...pages: [text: string, path: string][]): Item[] =>
  pages
    .filter(([, path]) => existsSync(join(SOURCE, `${path}.md`)))
    .map(([text, path]) => ({ text, link: `/${path}` }));

/** All pages of a folder by their titles. */
const folder = (name: string): Item[] =>
  readdirSync(join(SOURCE, name))
    .filter((file) => file.endsWith(".md"))
    .map((file) => ({ text: titleOf(join(SOURCE, name, file)), link: `/${name}/${file.slice(0, -3)}` }))
    .toSorted((a, b) => a.text.localeCompare(b.text));

const titleOf = (path: string): string => readFileSync(path, "utf8").split("\n")[0]!.replace(/^# |`/g, "");

/** The folders of decisions, in the order of the overview. */
const decisions: Group[] = ["engine", "kernels", "model", "train", "bench", "project"].map((name) => ({
  text: name,
  collapsed: true,
  items: folder(`decisions/${name}`),
}));

const sidebar: Group[] = [
  { text: "Begin", items: items(["Quick start", "start"], ["Coming from PyTorch", "pytorch"], ["The demo", "demo"]) },
  {
    text: "Tutorials",
    items: items(
      ["Ask and draw", "tutorials/ask_and_draw"],
      ["Fine-tune on your own pictures", "tutorials/finetune"],
      ["Train from random weights", "tutorials/from_random_weights"],
      ["Write a kernel with its gradient", "tutorials/write_a_kernel"],
      ["A page with the model in it", "tutorials/page"],
      ["Real pictures with real words", "tutorials/your_own_pictures"],
    ),
  },
  {
    text: "How do I …",
    items: items(
      ["use the model", "use"],
      ["train", "train"],
      ["prepare data", "data"],
      ["use the library", "library"],
      ["quantise", "how_to/quantise"],
      ["train LoRA adapters", "how_to/lora"],
      ["stop and resume", "how_to/resume"],
      ["use many machines", "cluster"],
      ["serve a model", "server"],
      ["use it in a browser", "browser"],
      ["evaluate", "how_to/evaluate"],
      ["bench and tune a device", "how_to/bench_and_tune"],
      ["report a wrong device", "how_to/report_a_wrong_device"],
      ["write an op", "kernels"],
    ),
  },
  {
    text: "How it works",
    items: items(
      ["Tensors and their lifetimes", "concepts/tensors"],
      ["Capture and replay", "concepts/capture"],
      ["Numbers and determinism", "concepts/numbers"],
      ["The checkpoint format", "concepts/checkpoints"],
      ["The recipe beside the report", "concepts/recipe"],
      ["What a training run guarantees", "training"],
      ["Benchmarks of the report", "evaluation"],
      ["The bench", "bench"],
      ["1B at full size", "full_size"],
      ["What is done, and what is not", "state"],
      ["The source tree", "source_tree"],
    ),
  },
  {
    text: "Reference",
    items: items(
      ["Command line", "reference/cli"],
      ["Settings of training", "reference/settings"],
      ["Errors", "reference/errors"],
      ["Ops and kernels", "reference/kernels"],
      ["Data formats", "reference/formats"],
      ["Results by device", "reference/results"],
      ["Licences of dependencies", "reference/licences"],
      ["API", "reference/api/index"],
    ),
  },
  {
    text: "Decisions",
    collapsed: true,
    items: [{ text: "All decisions", link: "/decisions/README" }, ...decisions],
  },
  { text: "Log", collapsed: true, items: folder("log") },
];

export default defineConfig({
  title: "janus-webgpu",
  description: "Large multimodal models on any GPU, from TypeScript",
  lang: "en-GB",
  head: [["link", { rel: "icon", type: "image/svg+xml", href: ICON }]],
  cleanUrls: false,
  outDir: join(SOURCE, "..", "site"),
  cacheDir: join(SOURCE, "..", "vite"),
  markdown: { theme: { light: "github-light", dark: "github-dark" }, lineNumbers: false },
  vite: { build: { chunkSizeWarningLimit: 4000 }, logLevel: "warn" },
  themeConfig: {
    search: {
      provider: "local",
      // Every name of the API is also in lists of the API: pages that explain it come first.
      options: {
        miniSearch: {
          searchOptions: {
            boostDocument: (id: string) =>
              /\/api\/janus-webgpu(\.html)?#/.test(id) ? 0.1 : id.includes("/api/") ? 0.3 : 1,
          },
        },
      },
    },
    outline: { level: [2, 3] },
    nav: [
      { text: "Quick start", link: "/start" },
      { text: "PyTorch", link: "/pytorch" },
      { text: "Command line", link: "/reference/cli" },
      { text: "API", link: "/reference/api/index" },
    ],
    sidebar,
    footer: { message: "MIT licence. The published Janus-Pro weights have their own." },
  },
});
