/** Images between the model (RGB), canvases, files and the history. */
import type { RgbImage } from "../../model/image/image.ts";
import { decodeByBrowser, toImageData } from "../../model/image/web_image.ts";

/** Draws an image into a canvas of `height` rows: the rows so far, from the top. */
export function paint(canvas: HTMLCanvasElement, image: RgbImage | null, side: number): void {
  const context = canvas.getContext("2d")!;
  if (canvas.width !== side || canvas.height !== side) canvas.width = canvas.height = side;
  context.clearRect(0, 0, side, side);
  if (image) context.putImageData(toImageData(image), 0, 0);
}

export async function pngOf(image: RgbImage): Promise<Blob> {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d")!.putImageData(toImageData(image), 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

export const pixelsOf = (file: Blob): Promise<RgbImage> => decodeByBrowser(file);

export function dataUrl(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result as string)); // a text after readAsDataURL
    reader.addEventListener("error", () => reject(reader.error ?? new Error("the image cannot be read")));
    reader.readAsDataURL(blob);
  });
}

/** Gives the person a file. */
export function download(name: string, content: Blob | string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(typeof content === "string" ? new Blob([content]) : content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
