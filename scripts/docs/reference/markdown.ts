/** Tables and text for generated pages. */

/** A cell: no line breaks, and nothing that would end the cell or begin a tag. */
export const cell = (text: string): string =>
  text
    .replace(/\s+/g, " ")
    .replace(/\|/g, "\\|")
    .replace(/`[^`]*`|[<>{}]/g, (part) => (part.length > 1 ? part : `&#${part.charCodeAt(0)};`))
    .trim();

export const code = (text: string): string => (text === "" ? "" : `\`${text}\``);

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.map(cell).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

/** A page with the remark that it is generated. Its tables take the room of the outline. */
export const page = (title: string, from: string, body: string): string =>
  `---\naside: false\n---\n\n# ${title}\n\n_Generated from ${from}._\n\n${body.trim()}\n`;
