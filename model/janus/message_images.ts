/** The images of a conversation: those in its parts, and those of a list, in the order in which the model sees them. */
import type { RgbImage } from "../image/image.ts";
import type { CanvasLike, ImageDataLike } from "../image/web_image.ts";
import { isObject, showJson } from "../io/unknown.ts";
import { PromptError } from "../request.ts";
import type { Message } from "./prompt.ts";

/** An image as `Janus` takes it: pixels (RGB, ImageData, a canvas) or an encoded file (bytes, Blob, File); in Node also its path. */
export type ImageInput = RgbImage | ImageDataLike | CanvasLike | Blob | Uint8Array | string;

/** Fields of a part by its type; `detail` of OpenAI's has no effect: there is one resolution. */
const FIELDS: Readonly<Record<string, readonly string[]>> = {
  text: ["type", "text"],
  input_text: ["type", "text"],
  image: ["type", "image", "url", "path"],
  image_url: ["type", "image_url"],
  input_image: ["type", "image_url", "detail"],
};

/**
 * The images of `question` in order. A part without an image of its own, and each `placeholder` in a text, takes the next of `listed`; what is
 * left of them comes last, where the count of placeholders shows it. Throws `PromptError` for fields that are not known and for URLs other than
 * `data:`: nothing is fetched, and no file is read that a URL names.
 */
export function imagesOf(
  question: string | readonly Message[],
  listed: readonly ImageInput[],
  placeholder: string,
): ImageInput[] {
  checkQuestion(question, listed);
  if (typeof question === "string") return [...listed];
  const images: ImageInput[] = [];
  let next = 0;
  const take = (count: number): void => {
    images.push(...listed.slice(next, next + count));
    next += count;
  };
  for (const [m, { content }] of question.entries()) {
    // Content that is not a list of parts is refused with the text.
    for (const [p, part] of Array.isArray(content)
      ? content.entries()
      : [[0, { type: "text", text: content }] as const]) {
      if (!isObject(part)) continue;
      const where = `message ${m}, part ${p}`;
      checkFields(part, where);
      if (typeof part.text === "string") take(part.text.split(placeholder).length - 1);
      const own = imageOf(part, where);
      if (own !== undefined) images.push(own);
      else if (part.type === "image") take(1);
    }
  }
  return [...images, ...listed.slice(next)];
}

/** Plain JavaScript may pass anything. */
function checkQuestion(question: unknown, listed: unknown): void {
  if (!Array.isArray(listed))
    throw new PromptError(`images must be a list; got ${typeof listed === "string" ? showJson(listed) : typeof listed}. Put one image into a list too`); // prettier-ignore
  if (typeof question === "string") return;
  if (!Array.isArray(question))
    throw new PromptError(`the question must be a text or a list of messages; got ${showJson(question)}`);
  const strange = question.findIndex((message) => !isObject(message));
  if (strange >= 0)
    throw new PromptError(`message ${strange} must be an object with role and content; got ${showJson(question[strange])}`); // prettier-ignore
}

function checkFields(part: Record<string, unknown>, where: string): void {
  const known = typeof part.type === "string" && Object.hasOwn(FIELDS, part.type) ? FIELDS[part.type] : undefined;
  const strange = known && Object.keys(part).find((key) => !known.includes(key));
  if (strange !== undefined)
    throw new PromptError(
      `${where}: the field ${showJson(strange)} of type ${showJson(part.type)} is not supported; it has ${known!.join(", ")}`,
    );
}

/** The image that a part brings along; undefined if it brings none. */
function imageOf(part: Record<string, unknown>, where: string): ImageInput | undefined {
  if (part.type === "image") {
    const given = ["image", "url", "path"].filter((key) => part[key] !== undefined);
    if (given.length > 1)
      throw new PromptError(`${where} must have one of image, url and path; got ${given.join(", ")}`);
    if (part.url !== undefined) return fromUrl(part.url, `${where}: url`);
    return (part.image ?? part.path) as ImageInput | undefined; // `Janus` refuses unknown kinds
  }
  if (part.type !== "image_url" && part.type !== "input_image") return undefined;
  const url = isObject(part.image_url) ? part.image_url.url : part.image_url;
  return fromUrl(url, `${where}: image_url`);
}

/** The bytes of a `data:` URL in base64. */
function fromUrl(url: unknown, where: string): Uint8Array {
  const data = typeof url === "string" ? /^data:[^,]*;base64,/i.exec(url) : null;
  if (!data)
    throw new PromptError(
      `${where} must be a data: URL in base64; got ${showJson(url)}. Load the image and give its bytes, or its path as {"type": "image", "path": …}`,
    );
  try {
    return Uint8Array.from(atob((url as string).slice(data[0].length)), (c) => c.charCodeAt(0));
  } catch {
    throw new PromptError(`${where} is not valid base64; encode the image again`);
  }
}
