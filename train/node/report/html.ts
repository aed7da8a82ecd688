/**
 * A page of its own: one HTML file with its style and its pictures inside, nothing from elsewhere and no script. What is put into a page is
 * escaped unless it is `Html` already, and a content policy in the page forbids scripts and the net should something slip through.
 */

/** Finished HTML: `html` and the functions below make it. The constructor takes its text as it is. */
export class Html {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
  toString(): string {
    return this.text;
  }
}

/** What a page can hold: text, which is escaped, finished HTML, or several of them. Null is nothing. */
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
  /** Strings are paragraphs, charts that follow each other stand side by side if there is room. */
  readonly content: readonly Content[];
}

export interface PageOptions {
  readonly title: string;
  /** Below the title. */
  readonly summary?: Content;
  readonly sections: readonly Section[];
  /** The browser loads the page again every so many seconds (default: never). */
  readonly refresh?: number;
}

const STYLE = `
:root { color-scheme: light dark; --back: #fff; --text: #1c2128; --soft: #626b77; --line: #dfe3e8; }
@media (prefers-color-scheme: dark) { :root { --back: #14171c; --text: #e4e7eb; --soft: #98a2ae; --line: #333a44; } }
body { margin: 0 auto; padding: 24px; max-width: 1240px; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 12px; padding-top: 12px; border-top: 1px solid var(--line); }
p { margin: 8px 0; max-width: 80ch; overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); }
.charts { display: flex; flex-wrap: wrap; gap: 20px 24px; margin: 12px 0; }
.charts svg { max-width: 100%; height: auto; }
.charts text { fill: var(--text); }
.charts .role-axis-label text { fill: var(--soft); }
.charts .role-axis-grid line, .charts .role-axis-domain line, .charts .role-axis-tick line { stroke: var(--line); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 12px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
th { font-weight: 600; } .right { text-align: right; }
img { display: block; border-radius: 3px; } figure img { max-width: 100%; height: auto; }
.pictures { display: grid; gap: 16px 12px; margin: 12px 0; justify-content: start; }
figure { margin: 0; } figcaption { font-size: 13px; margin-top: 4px; overflow-wrap: anywhere; }
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

/** Rows of cells, which may be pictures; columns whose index is in `right` (numbers) are flush right. */
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
  /** Below the picture; also what is said if it cannot be seen. */
  readonly caption: string;
}

/** One picture, inside the page. @param width of CSS pixels (default: its own) */
export function picture({ png, caption }: PagePicture, width?: number): Html {
  const data = `data:image/png;base64,${Buffer.from(png).toString("base64")}`;
  return html`<img
    src="${data}"
    alt="${caption}"
    title="${caption}"
    ${width === undefined ? null : html` width="${width}"`}
  />`;
}

/** Pictures with captions, `columns` in a row (default: 4), each `width` CSS pixels wide (default: 192). */
export function pictureGrid(
  pictures: readonly PagePicture[],
  { columns = 4, width = 192 }: { readonly columns?: number; readonly width?: number } = {},
): Html {
  const cells = pictures.map(
    (one) =>
      html`<figure>
        ${picture(one, width)}
        <figcaption>${one.caption}</figcaption>
      </figure> `,
  );
  return html`<div class="pictures" style="grid-template-columns: repeat(${columns}, minmax(0, ${width}px))">
    ${cells}
  </div>`;
}
