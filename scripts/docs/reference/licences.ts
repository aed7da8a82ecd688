/** Licences of everything that an installation brings. */
import { licences } from "../../release/licences.mjs";
import { code, page, table } from "./markdown.ts";

export function licencesPage(): string {
  const rows = licences().map(({ name, version, licence, reason }) => [code(name), version, licence, reason ?? ""]);
  const body = `The package itself is under the MIT licence. Installing it brings these packages, which are not part of it; a test fails if
one has a licence that is not on the list.

${table(["package", "version", "licence", "note"], rows)}`;
  return page("Licences of dependencies", "package-lock.json", body);
}
