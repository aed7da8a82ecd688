/** The page of `janus data preview --html`: samples as they are trained, with their images as the model gets them. */
import type { RgbImage } from "../../../model/image/image.ts";
import { generationPixels } from "../../../model/image/preprocess.ts";
import type { PreprocessConfig } from "../../../model/image/preprocess.ts";
import { encodePng, readImage } from "../../../model/node/image_file.ts";
import type { Piece } from "../../data/preview.ts";
import type { Sample, Task } from "../../samples.ts";
import { Html, html, page, picture } from "./html.ts";
import type { Content } from "./html.ts";

export interface PreviewedSample {
  /** File and number of its record. */
  readonly name: string;
  /** These are absent for a record that is no sample. */
  readonly task?: Task;
  readonly tokens?: number;
  readonly trained?: number;
  /** Tokens that fit, if these are not all. */
  readonly kept?: number;
  readonly pieces: readonly Piece[];
  /** Why a run would put it into quarantine. */
  readonly bad?: string;
  /** PNG files. */
  readonly images: readonly Uint8Array[];
}

/** Width of an image on the page, CSS pixels. */
const WIDTH = 240;

/** Values [3, S, S] as 8-bit RGB. */
function rgbOf(pixels: Float32Array, levelOf: (value: number, channel: number) => number): RgbImage {
  const area = pixels.length / 3;
  const data = new Uint8Array(3 * area);
  for (let channel = 0; channel < 3; channel++)
    for (let i = 0; i < area; i++)
      data[3 * i + channel] = Math.min(255, Math.max(0, Math.round(levelOf(pixels[channel * area + i]!, channel))));
  return { width: Math.sqrt(area), height: Math.sqrt(area), data };
}

/** Images that a sample shows the model, as PNG files: fitted and padded, before they were normalised. */
export const seenImages = (sample: Sample, { mean, std, rescaleFactor }: PreprocessConfig): Promise<Uint8Array[]> =>
  Promise.all(
    sample.images.map((pixels) =>
      encodePng(rgbOf(pixels, (value, channel) => (value * std[channel]! + mean[channel]!) / rescaleFactor)),
    ),
  );

/** An image that the model learns to draw, as a PNG file: cropped and scaled as its codes are of it. */
export const drawnImage = async (image: string, side: number, isPlain: boolean): Promise<Uint8Array> =>
  encodePng(rgbOf(generationPixels(await readImage(image, { plain: isPlain }), side), (value) => (value + 1) * 127.5));

const STYLES = {
  trained: "background: #1f9e7a44; border-radius: 3px;",
  cut: "text-decoration: line-through; opacity: 0.55;",
} as const;

const styled = (style: keyof typeof STYLES, text: string): Html => html`<span class="${style}" style="${STYLES[style]}">${text}</span>`; // prettier-ignore

function textOf({ text, isTrained, isCut = false }: Piece): Content {
  if (isCut) return styled("cut", text);
  return isTrained ? styled("trained", text) : text;
}

function sampleOf({ task, tokens, trained, kept, pieces, bad, images, name }: PreviewedSample): Content[] {
  const number = (value: number): string => value.toLocaleString("en-US");
  const facts = [
    ...(task === undefined ? [] : [task, `${number(tokens!)} tokens`, `${number(trained!)} trained`]),
    ...(kept === undefined ? [] : [`cut after ${number(kept)} tokens`]),
    ...(images.length > 0 ? [`${images.length} image${images.length > 1 ? "s" : ""}`] : []),
  ];
  const shown = images.map((png, i) => picture({ png, caption: `image ${i + 1} of ${name}` }, WIDTH));
  return [
    bad === undefined ? null : html`<p class="bad" style="color: #d1495b">Goes into quarantine: ${bad}</p>`,
    facts.length ? html`<p class="soft">${facts.join(" · ")}</p>` : null,
    shown.length ? html`<div style="display: flex; flex-wrap: wrap; gap: 12px; margin: 12px 0">${shown}</div>` : null,
    pieces.length
      ? new Html(
          `<p style="white-space: pre-wrap; max-width: 110ch">${pieces.map((piece) => html`${textOf(piece)}`).join("")}</p>`,
        )
      : null,
  ];
}

/** The page of samples of a source. */
export async function previewPage(
  source: string,
  samples: readonly PreviewedSample[],
  length?: number,
): Promise<string> {
  const row = length === undefined ? "" : `; a row has ${length.toLocaleString("en-US")} tokens`;
  const legend = html`${samples.length} samples of ${source}${row}. ${styled("trained", "Trained tokens")} have a
  colour; ${styled("cut", "what does not fit")} is struck through; special tokens are written out, long runs of one as
  token×number.`;
  return page({
    title: "Samples as they are trained",
    summary: legend,
    sections: samples.map((sample) => ({ title: sample.name, content: sampleOf(sample) })),
  });
}
