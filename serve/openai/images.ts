/** `/v1/images/generations`: requests as OpenAI's clients write them, and answers as they read them. */
import * as z from "zod";
import type { DrawSettings } from "../pictures.ts";
import { invalid } from "../errors.ts";
import * as fields from "./fields.ts";

const schema = (choices: number, side: number, rows: number) =>
  z.strictObject({
    model: z.string(),
    prompt: z.string(),
    n: fields.count(choices).optional(),
    size: fields.neutral(["auto", `${side}x${side}`], "the model has one size").optional(),
    response_format: fields.neutral(["b64_json"], "images are returned in the answer, not as URLs").optional(),
    stream: z.boolean().optional(),
    partial_images: z.custom<number>((value) => Number.isInteger(value) && (value as number) >= 0 && (value as number) < rows, { error: `it must be a whole number from 0 to ${rows - 1}` }).optional(), // prettier-ignore
    // Beyond OpenAI's.
    seed: fields.seed.optional(),
    guidance: fields.guidance.optional(),
    temperature: fields.temperature.optional(),
    top_p: fields.topP.optional(),
    // Without effect here.
    user: fields.label.optional(),
    // Only values that ask for nothing.
    quality: fields.neutral(["auto", "standard"], "there is one quality").optional(),
    background: fields.neutral(["auto", "opaque"], "images are opaque").optional(),
    moderation: fields.neutral(["auto", "low"], "nothing is moderated").optional(),
    output_format: fields.neutral(["png"], "images are PNG files").optional(),
    output_compression: fields.neutral([100], "PNG files lose nothing").optional(),
  });

export interface ImagesRequest {
  readonly model: string;
  readonly prompt: string;
  readonly n: number;
  readonly seed: number | undefined;
  /** Those that were given. */
  readonly settings: Partial<DrawSettings>;
  readonly isStream: boolean;
  readonly partials: number;
}

/**
 * Checks a body. Throws `ApiError` 400.
 * @param limits most images of a request, side of an image in pixels, rows of codes
 */
export function imagesRequest(
  body: unknown,
  { choices, side, rows }: { readonly choices: number; readonly side: number; readonly rows: number },
): ImagesRequest {
  const given = fields.checkFields(schema(choices, side, rows), body);
  const { stream = false, partial_images: partials } = given;
  if (partials !== undefined && partials > 0 && !stream)
    throw invalid("partial_images: it needs stream. Leave it out.", "partial_images", "invalid_value");
  return {
    model: given.model,
    prompt: given.prompt,
    n: given.n ?? 1,
    seed: given.seed,
    settings: {
      ...(given.guidance !== undefined && { guidance: given.guidance }),
      ...(given.temperature !== undefined && { temperature: given.temperature }),
      ...(given.top_p !== undefined && { topP: given.top_p }),
    },
    isStream: stream,
    partials: partials ?? 0,
  };
}

/** Usage of a request: prompt tokens read, codes drawn. */
export const imagesUsage = (prompt: number, codes: number): object => ({
  input_tokens: prompt,
  output_tokens: codes,
  total_tokens: prompt + codes,
  input_tokens_details: { text_tokens: prompt, image_tokens: 0 },
});

/** What every answer and event says about its images. */
export const imageLook = (side: number): object => ({
  size: `${side}x${side}`,
  quality: "auto",
  background: "opaque",
  output_format: "png",
});
