/** Links of the built site: every file and every anchor must exist. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, sep } from "node:path";

/** Checks all pages of `site`. Returns the number of links and what is wrong, one line each. */
export function siteProblems(site: string): { readonly links: number; readonly problems: string[] } {
  const pages = new Map(
    readdirSync(site, { recursive: true })
      .map((path) => String(path).split(sep).join("/"))
      .filter((path) => path.endsWith(".html"))
      .map((path) => [path, readFileSync(join(site, path), "utf8")] as const),
  );
  const anchors = new Map(
    [...pages].map(([path, html]) => [
      path,
      new Set([...html.matchAll(/\sid="([^"]+)"/g)].map(([, id]) => decode(id!))),
    ]),
  );
  const problems = new Set<string>();
  let links = 0;
  for (const [path, html] of pages)
    for (const [, href] of html.matchAll(/<a[^>]*\shref="([^"]+)"/g)) {
      if (/^[a-z]+:/.test(href!)) continue;
      links++;
      const [target, anchor] = decode(href!).split("#");
      const to = target === "" ? path : target!.startsWith("/") ? target!.slice(1) : join(dirname(path), target!);
      const file = to === "" || to.endsWith("/") ? `${to}index.html` : to;
      if (!existsSync(join(site, file))) problems.add(`${path}: the link ${href} leads to no page`);
      else if (anchor && anchors.has(file) && !anchors.get(file)!.has(decodeURIComponent(anchor)))
        problems.add(`${path}: the link ${href} leads to no heading`);
    }
  return { links, problems: [...problems] };
}

const decode = (text: string): string =>
  text.replace(/&amp;/g, "&").replace(/&quot;/g, '"').replace(/&#39;/g, "'").replace(/&lt;/g, "<").replace(/&gt;/g, ">"); // prettier-ignore
