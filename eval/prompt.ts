/** The text of a question by its recipe, without the conversation around it. */
import type { Item } from "./items.ts";
import type { AskRecipe } from "./recipe.ts";

/** Replaces {names} once: a question that contains "{hint}" keeps it. */
const fill = (template: string, values: Readonly<Record<string, string>>): string =>
  template.replace(/\{(\w+)\}/g, (whole, name: string) => values[name] ?? whole);

/** What follows the images. */
export function promptText({ question, hint, options }: Item, { prompt }: AskRecipe): string {
  let asked = question;
  for (const text of prompt.remove) asked = asked.replaceAll(text, "");
  const lines = [...options].map(([letter, text]) => fill(prompt.option, { letter, text }));
  return fill(options.size === 0 ? (prompt.withoutOptions ?? prompt.template) : prompt.template, {
    question: asked,
    hint: hint === null ? "" : fill(prompt.hint, { hint }),
    options: lines.join(""),
  });
}

/** The content of the user's message: a placeholder for each image, then the text. */
export const messageText = (item: Item, recipe: AskRecipe, placeholder: string): string =>
  placeholder.repeat(item.images.length) + promptText(item, recipe);
