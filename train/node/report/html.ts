/**
 * A self-contained page: one HTML file with its style and images, no external content and no script. Content is escaped
 * unless it is `Html` already, and a content policy in the page forbids scripts and the net as a second line of
 * defence.
 */

/** Finished HTML, made by `html` and the functions below. The constructor does not escape its text. */
export class Html {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
  toString(): string {
    return this.text;
  }
}

/** Contents of a page: text, which is escaped, finished HTML, or several of them. Null is empty. */
export type Content = string | number | Html | null | readonly Content[];

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** Text so that it stands for itself between tags and in quoted attributes. */
const escape = (text: string): string => text.replace(/[&<>"']/g, (character) => ENTITIES[character]!);

function render(content: Content): string {
  if (content === null) return "";
  if (content instanceof Html) return content.text;
  return typeof content === "object" ? content.map(render).join("") : escape(String(content));
}

/** HTML with what stands in `${}` escaped: html`<p title="${name}">${text}</p>`. Attributes are quoted. */
export const html = (parts: TemplateStringsArray, ...values: readonly Content[]): Html =>
  new Html(parts.map((part, i) => part + (i < values.length ? render(values[i]!) : "")).join(""));

export interface Section {
  readonly title: string;
  /** Strings are paragraphs; consecutive charts stand side by side if there is room. */
  readonly content: readonly Content[];
}

export interface PageOptions {
  readonly title: string;
  /** Below the title. */
  readonly summary?: Content;
  readonly sections: readonly Section[];
  /** Interval in seconds at which the browser reloads the page (default: never). */
  readonly refresh?: number;
}

const STYLE = `
:root { color-scheme: light dark; --back: #fff; --text: #1c2128; --soft: #626b77; --line: #dfe3e8; }
@media (prefers-color-scheme: dark) { :root { --back: #14171c; --text: #e4e7eb; --soft: #98a2ae; --line: #333a44; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1440px; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 12px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 16px 0 6px; overflow-wrap: anywhere; }
p { margin: 8px 0; max-width: 90ch; overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 20px 24px; margin: 12px 0; }
.charts svg { display: block; width: 100%; height: auto; }
.charts svg.wide { grid-column: 1 / -1; } .charts svg.narrow { display: none; }
.charts text { fill: var(--text); }
.charts .role-axis-label text { fill: var(--soft); }
.charts .role-axis-grid line, .charts .role-axis-domain line, .charts .role-axis-tick line { stroke: var(--line); }
.charts .at:hover .value { visibility: visible; }
.scroll { overflow-x: auto; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 0 32px; }
table { border-collapse: collapse; margin: 12px 0; min-width: min(100%, 560px); font-variant-numeric: tabular-nums; }
.columns table { width: 100%; }
th, td { padding: 4px 14px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
th { font-weight: 600; } .right { text-align: right; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 0 32px; }
dl div { display: flex; justify-content: space-between; gap: 12px; padding: 3px 0; border-bottom: 1px solid var(--line); }
dt { color: var(--soft); } dd { margin: 0; text-align: right; } dt, dd { overflow-wrap: anywhere; min-width: 0; }
img { display: block; border-radius: 3px; } img.pixels { image-rendering: pixelated; }
figure { margin: 0; } figure img { width: 100%; height: auto; } figcaption { font-size: 13px; margin-top: 4px; overflow-wrap: anywhere; }
.pictures { display: grid; gap: 16px 12px; margin: 12px 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
@media (max-width: 700px) {
  body { padding: 16px; } table { font-size: 14px; } th, td { padding-right: 8px; }
  .charts svg.wide { display: none; } .charts svg.narrow { display: block; }
}
`;

/** The whole HTML file. */
export function page({ title, summary, sections, refresh }: PageOptions): string {
  const head = [
    html`<meta charset="utf-8" />`,
    new Html(
      `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">`,
    ),
    refresh === undefined ? null : html`<meta http-equiv="refresh" content="${refresh}" />`,
    html`<meta name="viewport" content="width=device-width, initial-scale=1" />`,
    html`<title>${title}</title>`,
    new Html(`<style>${STYLE}</style>`),
  ];
  const parts = sections.map(
    (section) =>
      html`<section>
        <h2>${section.title}</h2>
        ${body(section.content)}
      </section> `,
  );
  return `<!doctype html>\n${render(
    html`<html lang="en">
      <head>
        ${head}
      </head>
      <body>
        <h1>${title}</h1>
        ${summary === undefined ? null : html`<p class="soft">${summary}</p>`} ${parts}
      </body>
    </html>`,
  )}\n`;
}

const isChart = (content: Content): boolean => content instanceof Html && content.text.startsWith("<svg");

function body(content: readonly Content[]): Html[] {
  const parts: Html[] = [];
  for (let i = 0; i < content.length;) {
    let end = i;
    while (end < content.length && isChart(content[end]!)) end++;
    const one = content[i]!;
    if (end > i) parts.push(html`<div class="charts">${content.slice(i, end)}</div>`);
    else parts.push(typeof one === "string" || typeof one === "number" ? html`<p>${one}</p>` : html`${one}`);
    i = Math.max(end, i + 1);
  }
  return parts;
}

/** Rows of cells, which may be images; columns whose index is in `right` (numbers) are flush right. */
export function table(
  head: readonly Content[],
  rows: readonly (readonly Content[])[],
  right: readonly number[] = [],
): Html {
  const style = (column: number): Html => html`${right.includes(column) ? new Html(` class="right"`) : null}`;
  const lines = rows.map(
    (row) =>
      html`<tr>
        ${row.map((cell, i) => html`<td${style(i)}>${cell}</td>`)}
      </tr> `,
  );
  return html`<div class="scroll">
    <table>
      <thead>
        <tr>
          ${head.map((cell, i) => html`<th${style(i)}>${cell}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${lines}
      </tbody>
    </table>
  </div>`;
}

export interface PagePicture {
  /** A PNG file. */
  readonly png: Uint8Array;
  /** Below the image. */
  readonly caption: string;
  /** Shown on hover, and read if the image cannot be seen (default: the caption). */
  readonly about?: string;
}

/** Images up to this many pixels wide are enlarged without smoothing. */
const MAX_PIXELS = 64;
/** Narrowest image of a grid, CSS pixels: three in a row on a phone. */
const LEAST = 92;
const GAP = 12;

/** Width of a PNG file, pixels, from its header. */
const pngWidth = (png: Uint8Array): number => new DataView(png.buffer, png.byteOffset).getUint32(16);

/** One image, inside the page. @param width of CSS pixels (default: its own) */
export function picture({ png, caption, about = caption }: PagePicture, width?: number): Html {
  const data = `data:image/png;base64,${Buffer.from(png).toString("base64")}`;
  return html`<img
    src="${data}"
    alt="${about}"
    title="${about}"
    ${pngWidth(png) <= MAX_PIXELS ? new Html(` class="pixels"`) : null}
    ${width === undefined ? null : html` width="${width}"`}
  />`;
}

/** Cells over the whole width of the page, at most `columns` in a row, fewer if each would be narrower than `least` CSS pixels. */
function grid(cells: readonly Html[], columns: number, least = LEAST): Html {
  const share = `(100% - ${GAP * (columns - 1)}px) / ${columns}`;
  return html`<div
    class="pictures"
    style="grid-template-columns: repeat(auto-fill, minmax(max(${least}px, ${share}), 1fr))"
  >
    ${cells}
  </div>`;
}

/** Images with captions over the whole width, at most `columns` in a row (default: 4); on a phone three. */
export function pictureGrid(
  pictures: readonly PagePicture[],
  { columns = 4 }: { readonly columns?: number } = {},
): Html {
  const cells = pictures.map(
    (one) =>
      html`<figure>
        ${picture(one)}
        <figcaption>${one.caption}</figcaption>
      </figure> `,
  );
  return grid(cells, columns);
}

/** Two images side by side with one caption, e.g. an original and its reconstruction; at most `columns` pairs in a row (default: 4). */
export function picturePairs(
  pairs: readonly { readonly pictures: readonly [PagePicture, PagePicture]; readonly caption: string }[],
  { columns = 4 }: { readonly columns?: number } = {},
): Html {
  const cells = pairs.map(
    ({ pictures, caption }) =>
      html`<figure>
        <div class="pair">${pictures.map((one) => picture(one))}</div>
        <figcaption>${caption}</figcaption>
      </figure> `,
  );
  return grid(cells, columns, 2 * LEAST);
}

/** Parts of a section side by side if there is room for 480 pixels each. */
export const sideBySide = (parts: readonly Content[]): Html =>
  html`<div class="columns">${parts.map((part) => html`<div>${part}</div>`)}</div>`;

/** Names with a value each, in as many columns as there is room for. */
export const definitions = (entries: readonly (readonly [name: string, value: Content])[]): Html =>
  html`<dl>${entries.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`; // prettier-ignore
