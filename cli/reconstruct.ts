/** `janus reconstruct`: encodes and decodes an image with the image tokenizer, to show what its codes preserve. */
import { basename, extname } from "node:path";
import type { AddCommand, Context } from "./context.ts";
import { addWeightOptions, writeFree, openJanus, pictureFolder, plainOption } from "./session.ts";
import type { ModelFlags } from "./session.ts";

interface ReconstructFlags extends ModelFlags {
  readonly out: string;
}

export const addReconstruct: AddCommand = (program, context) => {
  const command = program
    .command("reconstruct")
    .summary("encode and decode an image with the image tokenizer")
    .description(
      "Encode an image (short side scaled to the model's size, cropped to a square) as tokens, decode them, and print the PSNR of the result.",
    )
    .argument("<image>", "image file")
    .option("--out <folder>", "folder for the decoded image", ".")
    .addOption(plainOption())
    .option("--json", "print one JSON object");
  addWeightOptions(command).action((image: string, flags: ReconstructFlags) => reconstruct(image, flags, context));
};

async function reconstruct(file: string, flags: ReconstructFlags, context: Context): Promise<void> {
  const { encodePng, readImage } = await import("../model/node/image_file.ts");
  const input = await readImage(file, { plain: flags.plain ?? false });
  await pictureFolder(flags.out);
  const { requirePart } = await import("../model/janus/checkpoint/expected.ts");
  using session = await openJanus(flags, context, ({ missing }) =>
    requirePart(missing, "reconstruct", "generate images"),
  );
  const started = performance.now();
  const { tokenIds, image, psnr } = await session.janus.reconstruct(input);
  const path = await writeFree(flags.out, `${basename(file, extname(file))}-reconstructed`, await encodePng(image));
  const timings = { loadMs: session.loadMs, reconstructMs: performance.now() - started };
  context.out.result(
    { path, psnr, tokenIds, timings },
    () => `${path}\nPSNR ${psnr.toFixed(2)} dB\n${tokenIds.join(" ")}`,
  );
}
