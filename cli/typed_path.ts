/** Paths as people type, paste or drop them into a prompt that no shell reads. */
import { access } from "node:fs/promises";
import { homedir } from "node:os";
import { fileURLToPath } from "node:url";

const exists = (path: string): Promise<boolean> => access(path).then(() => true, () => false); // prettier-ignore

/** Interprets a typed path: unchanged if there is such a file, else without quotes and escapes; `~` is the home folder. */
export async function typedPath(typed: string): Promise<string> {
  const text = typed.trim();
  if (await exists(text)) return text;
  try {
    return unquoted(text);
  } catch {
    return text; // a file:// that is no address
  }
}

/** `"my photo.jpg"`, `'my photo.jpg'`, `my\ photo.jpg`, `~/photo.jpg` and `file:///my%20photo.jpg`. */
function unquoted(text: string): string {
  if (text.startsWith("file://")) return fileURLToPath(text);
  const [, quote, inner] = /^(["'])(.*)\1$/s.exec(text) ?? [];
  const isLiteral = quote === "'" || process.platform === "win32"; // where a backslash is part of a path
  const path = isLiteral ? (inner ?? text) : (inner ?? text).replace(/\\(.)/gs, "$1");
  return quote === undefined || quote === '"' ? path.replace(/^~(?=$|[/\\])/, () => homedir()) : path;
}
